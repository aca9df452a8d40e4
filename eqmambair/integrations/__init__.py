"""What other programs need to use the networks; each file needs the package that it is named after."""
