"""The house, looked at from outside: its plan, its imports, a picture, figures and walks.

``plan`` is the law, ``imports`` what the sources do; ``tests/test_walls.py`` compares the two.
"""
