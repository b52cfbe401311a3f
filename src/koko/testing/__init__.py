"""For the tests of applications: connections in memory, and clients that need no port.

``koko.testing.aio`` and ``koko.testing.sync`` hold the same names, one module for each face.
"""
