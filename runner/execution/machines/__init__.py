"""Machines that train one model together: how they meet, compare, and miss each other."""
