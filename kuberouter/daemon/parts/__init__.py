"""What each controller brings along, one file each: a function from its settings to its part.

`daemon/compose.py` puts the parts together; a part names its own sources, compilers and drivers and knows no other.
"""
