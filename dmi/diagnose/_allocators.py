"""Allocators and runtimes whose blocks are not walked, and pools that stand above malloc: what can
be said of their memory, where their own figures are, and what makes them give back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ._causes import Cure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._observe import Observation, State

__all__ = ["collector_of", "cures_of_runtimes", "pools", "subject_of"]


class _Runtime(NamedTuple):
    """Where its own figures are, and what makes it give back."""

    figures: str
    gives_back: str


_RUNTIMES: Final[Mapping[str, _Runtime]] = {
    "jemalloc": _Runtime(
        "its `malloc_stats_print` (MALLOC_CONF=stats_print:true; of Redis `MEMORY STATS`) tells "
        "what is allocated and what is kept",
        "MALLOC_CONF=background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0 gives free pages "
        "back sooner (of Redis `MEMORY PURGE`, and `activedefrag yes`)",
    ),
    "mimalloc": _Runtime(
        "MIMALLOC_SHOW_STATS=1 tells what is in use at the end",
        "MIMALLOC_PURGE_DELAY=0 gives free pages back at once, and mi_collect(true) does it now",
    ),
    "tcmalloc": _Runtime(
        "MallocExtension::GetStats tells what is in use and what its caches keep",
        "MallocExtension::ReleaseFreeMemory, or a release rate (TCMALLOC_RELEASE_RATE)",
    ),
    "Go": _Runtime(
        "runtime.MemStats tells HeapInuse and HeapIdle less HeapReleased",
        "a limit (GOMEMLIMIT), a lower GOGC, or debug.FreeOSMemory() after the peak",
    ),
    "V8": _Runtime(
        "process.memoryUsage() and v8.getHeapSpaceStatistics() tell what is used",
        "a limit (--max-old-space-size=MB); a heap snapshot names what is held",
    ),
    "JVM": _Runtime(
        "`jcmd PID GC.heap_info` and `jcmd PID VM.native_memory` (-XX:NativeMemoryTracking=summary)"
        " tell what is used",
        "a limit (-Xmx), and for what is free `jcmd PID GC.run`; G1 gives back by itself with "
        "-XX:G1PeriodicGCInterval=60000",
    ),
    "Zend": _Runtime(
        "memory_get_usage() and memory_get_usage(true) tell what is used and what is kept",
        "gc_mem_caches() after the peak, memory_limit, and of php-fpm pm.max_requests",
    ),
    "Ruby": _Runtime(
        "GC.stat tells what its pages of objects hold", "GC.compact, or jemalloc under Ruby",
    ),
    ".NET": _Runtime(
        "`dotnet-counters monitor -p PID` tells what the heaps hold",
        "a limit (DOTNET_GCHeapHardLimit) or DOTNET_GCConserveMemory=5",
    ),
    "Erlang": _Runtime(
        "erlang:memory() and recon_alloc tell what is used of the carriers",
        "erlang:garbage_collect() of the processes that hold binaries; +MHas aoffcbf moves less",
    ),
}  # fmt: skip


def subject_of(heap: Observation) -> str:
    """How a verdict calls it. Of an allocator that is not walked only its memory is known: it is
    memory outside the heaps, and whose."""
    if heap.is_walked:
        return heap.name
    if heap.kind == "unknown":
        return "memory outside the heaps"
    return f"memory outside the heaps, of {heap.name}"


def cures_of_runtimes(heap: Observation) -> tuple[Cure, ...]:
    """What the person can do about growth of an allocator that is not walked."""
    names = heap.kind.split(" or ")
    lines: list[Cure] = []
    for name in names:
        known = _RUNTIMES.get(name)
        if known is None:
            continue
        of = f"{name}: " if len(names) > 1 else ""
        lines += [
            Cure(f"{of}Ask it what it holds: {known.figures}"),
            Cure(
                f"{of}Make it give back: {known.gives_back}. What that would give its own figures "
                "tell, and cannot be told from here"
            ),
        ]
    if not lines:
        lines.append(
            Cure(
                "Ask the allocator or the program for its own figures at both moments: only they "
                "tell whether the program holds it or the allocator keeps it"
            )
        )
    return tuple(lines)


# ---- collectors above malloc ------------------------------------------------------------------

_COLLECTORS: Final[Mapping[str, tuple[str, str]]] = {
    "ruby": ("Ruby", "GC.start"),
    "irb": ("Ruby", "GC.start"),
    "puma": ("Ruby", "GC.start"),
    "R": ("R", "gc()"),
    "Rscript": ("R", "gc()"),
    "lua": ("Lua", "collectgarbage()"),
    "ocaml": ("OCaml", "Gc.compact ()"),
    "pypy": ("PyPy", "gc.collect()"),
    "swipl": ("Prolog", "garbage_collect_atoms"),
}
"""By the name of the program, as the system has it: what frees blocks of malloc only when it runs,
and how the program is made to run it."""


def collector_of(states: Sequence[State]) -> tuple[str, str] | None:
    """The collector of a program whose blocks malloc has: its garbage is busy until it runs."""
    name = (states[-1].scope.program or "").partition(":")[0]
    return _COLLECTORS.get(name) or _COLLECTORS.get(name.rstrip("0123456789.-"))


# ---- pools above malloc --------------------------------------------------------------------------

_POOLS: Final[Mapping[str, tuple[str, str]]] = {
    "postgres": (
        "PostgreSQL's memory contexts",
        "select * from pg_backend_memory_contexts; DISCARD ALL gives back what a session prepared",
    ),
    "nginx": ("nginx's pools", "a pool goes when its request or connection ends: count those"),
    "ruby": ("Ruby's pages of objects", "GC.stat"),
    "perl": ("Perl's arenas", "they never shrink; what a variable had, undef gives back"),
    "mysqld": ("MySQL's buffer pool", "innodb_buffer_pool_size is its limit"),
    "mariadbd": ("MariaDB's buffer pool", "innodb_buffer_pool_size is its limit"),
    "apache2": ("Apache's pools", "MaxMemFree is their limit"),
    "httpd": ("Apache's pools", "MaxMemFree is their limit"),
    "memcached": ("memcached's slabs", "`stats slabs`, and -m is their limit"),
    "varnishd": ("Varnish's storage", "`varnishstat`, and -s is its limit"),
    "squid": ("Squid's memory pools", "`squidclient mgr:mem`, and memory_pools_limit"),
    "smbd": ("Samba's talloc contexts", "`smbcontrol PID pool-usage`"),
}
"""By the name of the program: the pool, and its own figures or its limit."""
_OWN_MAPPINGS: Final[Mapping[str, str]] = {
    "node": "V8's heap", "java": "the JVM's heap", "php": "PHP's own heap",
    "beam.smp": "Erlang's carriers", "dotnet": ".NET's heaps",
}  # fmt: skip
"""Those that map their memory themselves: no malloc sees it."""


def pools(states: Sequence[State]) -> list[str]:
    """What a pool above malloc holds is busy to malloc, used or not: said where the program is one
    that is known to have such a pool."""
    program = states[-1].scope.program or ""
    for name, (pool, figures) in _POOLS.items():
        if program.startswith(name):
            said = (
                f"The program is {program}: what {pool} hold free is busy to the allocator below, "
                f"and is not told apart here. Its own figures tell it: {figures}."
            )
            return [said]
    for name, heap in _OWN_MAPPINGS.items():
        if program.startswith(name):
            said = (
                f"The program is {program}: {heap} maps its memory itself, and what of it is in "
                "use is not told apart here. Its own figures tell it."
            )
            return [said]
    return []
