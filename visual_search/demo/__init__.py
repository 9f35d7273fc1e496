"""The first minute: real photos, indexed, searched and evaluated, with a page to look at."""
