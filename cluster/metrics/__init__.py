"""Counting in each process and gathering the counts of all processes into one snapshot."""
