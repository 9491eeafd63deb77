"""HTML pages about runs and images: self-contained files that open offline.

Every value on a page is escaped.
"""
