"""Pages: HTML in one file that opens without a network, everything in it escaped.

Above the ground floor, beside the callbacks: it reads what runs have written and is called by the
entry points.
"""
