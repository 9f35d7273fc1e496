"""Images as bytes under keys: one seam (`backend`), a local folder (`local`) and S3 (`s3`) behind it, and `web`."""
