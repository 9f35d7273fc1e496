"""The HTTP API and the web page: a thin shell over the clients of the query service, the jobs and the catalog."""
