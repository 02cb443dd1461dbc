"""Answers that must have a structure: JSON, a regular expression or a grammar, by xgrammar (extra ``structured``)."""
