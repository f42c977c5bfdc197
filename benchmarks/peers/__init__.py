"""Run the native workloads under every allocator of this machine and compare them.

``python -m benchmarks.peers --help`` says how.
"""
