"""What `recipe data` says of files of rows, and makes of them."""
