"""How the site is made from the repository: `make docs`. Nothing here is imported by the packages."""
