"""Where large blocks of memory come from: the heap, and not one by one from the kernel.

glibc maps a block above a threshold (128 KiB at first) afresh and unmaps it when it is freed:
two system calls and a page fault for every 4 KiB. The threshold rises to the largest such block
that was ever freed. Nothing here touches a page, and other allocators do not mind.
"""

LARGE = 1 << 21  # bytes; a message of the default read_limit and its frame stay well below


def keep_large_blocks() -> None:
    """Make blocks of up to ``LARGE`` bytes come from the heap from now on.

    Echoing a megabyte costs 510 us instead of 750, and 256 bytes over TLS on uvloop, which
    reads into blocks of 256 KiB, 45 instead of 95 (``bench/run.py --only large,tls``).
    """
    bytes(LARGE)  # made and freed
