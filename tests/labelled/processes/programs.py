"""The programs, how each is brought to a peak and to rest, and what is right: the labels.

kinds    the kinds of heaps that hold memory in it
holder   the kind that has most in physical memory of what its allocators have; several where it
         depends on the version of the program
`{tmp}` in a command is a folder of its own. What `feed` says goes to its standard input, which stays
open.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

__all__ = ["PROGRAMS", "Program"]


@dataclass(frozen=True)
class Program:
    """One program and its label."""

    name: str
    command: tuple[str, ...]
    kinds: frozenset[str]
    holder: str
    feed: str = ""
    setup: str = ""
    """A shell command that runs first, without the witness."""
    child: str = ""
    """The name of the descendant that is meant; empty: the program itself."""
    environment: tuple[tuple[str, str], ...] = ()
    wait: float = 1.0


def _shell(name: str, text: str, kinds: str = "glibc", holder: str = "glibc") -> Program:
    return Program(name, ("/bin/sh", "-c", text), frozenset(kinds.split()), holder)


def program(
    name: str,
    *command: str,
    kinds: str = "glibc",
    holder: str = "glibc",
    feed: str = "",
    setup: str = "",
    child: str = "",
    wait: float = 1.0,
    **environment: str,
) -> Program:
    return Program(
        name, command, frozenset(kinds.split()), holder, feed, setup, child,
        tuple(environment.items()), wait,
    )  # fmt: skip


_PEAK: Final = (
    "import time\nx=[(n,str(n),{n:n}) for n in range(150000)]\ny=x[::300]\ndel x\n"
    "z=[bytearray(3000+n%5000) for n in range(6000)]\ndel z[::3]\ntime.sleep(600)\n"
)
_THREADS: Final = (
    "import threading,time\nkeep=[]\ndef work():\n"
    " b=[bytearray(1000+n%9000) for n in range(4000)]\n del b[::2]\n keep.append(b)\n"
    " time.sleep(600)\n"
    "[threading.Thread(target=work).start() for n in range(8)]\ntime.sleep(600)\n"
)
_SERVICE: Final = (
    "import json,time,re,decimal,http.server,sqlite3,email,ssl\n"
    "d=[json.loads(json.dumps({'a':list(range(200)),'b':'x'*n})) for n in range(2000)]\n"
    "e=d[::50]\ndel d\ntime.sleep(600)\n"
)
_LARGE: Final = (
    "import time\nx=[bytearray(200000) for n in range(200)]\ndel x[::2]\n"
    "y=[bytearray(140000) for n in range(50)]\ntime.sleep(600)\n"
)
_SQL: Final = (
    "import sqlite3,time\nc=sqlite3.connect(':memory:')\nc.execute('create table t(a,b)')\n"
    "c.executemany('insert into t values(?,?)',((n,'x'*(n%400)) for n in range(60000)))\n"
    "c.execute('delete from t where a%10')\nc.commit()\ntime.sleep(600)\n"
)
_PY: Final = "glibc pymalloc"
_RUBY: Final = (
    "a=(1..300000).map{|i| 'x'*(i%200)}; b=a.each_slice(97).map(&:first); a=nil; GC.start; sleep"
)
_PERL: Final = "my %h; $h{$_}='x'x($_%300) for 1..200000; delete $h{$_} for grep {$_%17} 1..200000; sleep 600 while 1"
_PHP: Final = "$a=[]; for($i=0;$i<300000;$i++) $a[]=str_repeat('x',$i%200); $b=array_slice($a,0,1000); unset($a); while(1) sleep(600);"
_LUA: Final = "local t={} for i=1,300000 do t[i]={i,tostring(i)} end for i=1,300000 do if i%19>0 then t[i]=nil end end collectgarbage() io.read()"
_TCL: Final = "for {set i 0} {$i<200000} {incr i} {set a($i) [string repeat x [expr {$i%100}]]}; array unset a *7; puts ready; after 600000"
_AWK: Final = 'BEGIN{for(i=0;i<200000;i++)a[i]=i"abc"; for(i=0;i<200000;i++)if(i%13)delete a[i]; getline x < "-"}'
_JS: Final = "let a=[];for(let i=0;i<200000;i++)a.push(Buffer.allocUnsafeSlow(100+i%900));a=a.filter((x,i)=>i%9==0);setInterval(()=>{},1e6)"
_JS_OBJECTS: Final = "let a=[];for(let i=0;i<400000;i++)a.push({i,s:'a'+i});a=a.filter((x,i)=>i%9==0);setInterval(()=>{},1e6)"
_MANY: Final = 'char *a%d[] = {"%d"}; int f%d(int x) { return x * %d + (x >> 3); }'
_C_SOURCE: Final = "\n".join(_MANY % (n, n, n, n) for n in range(1500)) + "\n"

PROGRAMS: Final = (
    program("python-peak", sys.executable, "-c", _PEAK, kinds=_PY, holder="pymalloc"),
    program("python-threads", sys.executable, "-c", _THREADS, kinds=_PY),
    program("python-service", sys.executable, "-c", _SERVICE, kinds=_PY),
    program("python-large", sys.executable, "-c", _LARGE, kinds=_PY),
    program("python-sqlite", sys.executable, "-c", _SQL, kinds=_PY),
    program("python-malloc", sys.executable, "-c", _PEAK, PYTHONMALLOC="malloc"),
    program("debian-python-peak", "/usr/bin/python3", "-c", _PEAK, kinds=_PY, holder="pymalloc"),
    program("debian-python-threads", "/usr/bin/python3", "-c", _THREADS, kinds=_PY),
    program(
        "python-threads-two-arenas", "/usr/bin/python3", "-c", _THREADS, kinds=_PY,
        MALLOC_ARENA_MAX="2",
    ),
    program(
        "python-threads-no-tcache", "/usr/bin/python3", "-c", _THREADS, kinds=_PY,
        GLIBC_TUNABLES="glibc.malloc.tcache_count=0",
    ),
    program(
        "python-large-brk", "/usr/bin/python3", "-c", _LARGE, kinds=_PY,
        GLIBC_TUNABLES="glibc.malloc.mmap_threshold=33554432",
    ),
    program(
        "python-mmap-all", "/usr/bin/python3", "-c", _LARGE, kinds=_PY,
        GLIBC_TUNABLES="glibc.malloc.mmap_threshold=4096",
    ),
    program("perl", "perl", "-e", _PERL),
    # Its own allocator maps 2 MiB at a time; glibc has little.
    program("php", "php", "-r", _PHP, kinds="glibc Zend", holder="Zend"),
    # From 3.2 on short strings lie in Ruby's own pages.
    program("ruby", "ruby", "-e", _RUBY, holder="glibc|Ruby", wait=2),
    program("lua", "lua5.4", "-e", _LUA),
    program("tcl", "tclsh", feed=_TCL + "\n", wait=2),
    program("mawk", "mawk", _AWK, wait=2),
    program("gawk", "gawk", _AWK, wait=2),
    # Its buffers are malloc's, not V8's.
    program("node", "node", "-e", _JS, kinds="glibc V8", wait=2),
    program("node-objects", "node", "-e", _JS_OBJECTS, kinds="glibc V8", holder="V8", wait=2),
    program(
        "python-threads-thp", "/usr/bin/python3", "-c", _THREADS, kinds=_PY,
        GLIBC_TUNABLES="glibc.malloc.hugetlb=1",
    ),
    program(
        "python-large-thp", "/usr/bin/python3", "-c", _LARGE, kinds=_PY,
        GLIBC_TUNABLES="glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432",
    ),
    program(
        "python-decorated", "/usr/bin/python3", "-c", _THREADS, kinds=_PY,
        GLIBC_TUNABLES="glibc.mem.decorate_maps=1",
    ),
    program(
        "python-top-pad", "/usr/bin/python3", "-c", _LARGE, kinds=_PY,
        GLIBC_TUNABLES="glibc.malloc.top_pad=20000000",
    ),
    program(
        "sqlite3", "sqlite3",
        feed="create table t(a,b); with recursive n(i) as (select 1 union all select i+1 from n where "
        "i<200000) insert into t select i, hex(randomblob(i%80)) from n; delete from t where a%11; "
        "create index x on t(b);\n",
        wait=3,
    ),
    _shell("bash", "exec bash -c 'a=(); for ((i=0;i<60000;i++)); do a[i]=$i$i; done; unset a[{1..50000..2}]; read x'"),
    program("dash", "dash", feed="x=1; for i in 1 2 3 4 5; do x=$x$x$x; done\n"),
    program("gcc", "gcc", "-O1", "-x", "c", "-", "-S", "-o", "/dev/null", feed=_C_SOURCE, child="cc1", wait=3),
    program("clang", "clang", "-O1", "-x", "c", "-", "-S", "-o", "/dev/null", feed=_C_SOURCE, child="clang", wait=3),
    program("gdb", "gdb", "-q", "-nx", "/usr/bin/gdb", feed="info functions main\n", wait=4, kinds=_PY),
    program("vim", "vim", "-es", "-u", "NONE", feed=":r /usr/share/common-licenses/GPL-3\n:%s/the/THEM/g\n:undo\n"),
    program("xz", "xz", "-9", "-c", feed="x" * 100000),
    program("sort", "sort", "-S", "40M", feed="some line\n" * 20000),
    program("jq", "jq", "--unbuffered", ".", feed='{"a":[' + ",".join(map(str, range(50000))) + "]}\n"),
    program("bc", "bc", "-q", feed="a=2^40000; b=a*a+3; c=0\n"),
    program("git", "git", "cat-file", "--batch", feed="HEAD\nHEAD^{tree}\n"),
    program("make", "make", "-f", "-", feed="all:\n\tsleep 600\n", setup=""),
    program("cmake", "cmake", "-P", "{tmp}/x.cmake", setup="echo 'foreach(i RANGE 30000)\nlist(APPEND a x${i})\nendforeach()\nset(a)\nexecute_process(COMMAND sleep 600)' > {tmp}/x.cmake", wait=4),
    program("sed", "sed", "-n", "H;$p", feed="a line of text\n" * 30000),
    program("tmux", "tmux", "-L", "dmi-labelled", "-f", "/dev/null", "new-session", "-d", "seq 5000; sleep 600", child="tmux: server"),
    program("openssl", "openssl", "s_server", "-accept", "0", "-nocert"),
    program("nginx", "nginx", "-p", "{tmp}", "-c", "{tmp}/n.conf", "-e", "{tmp}/e.log",
             setup="printf 'daemon off; pid {tmp}/pid; worker_processes 2; error_log {tmp}/e.log; events { worker_connections 2000; } http { access_log off; server { listen unix:{tmp}/s; } }' > {tmp}/n.conf"),
    program("nginx-worker", "nginx", "-p", "{tmp}", "-c", "{tmp}/n.conf", "-e", "{tmp}/e.log", child="nginx",
             setup="printf 'user root; daemon off; pid {tmp}/pid; worker_processes 1; error_log {tmp}/e.log; events { worker_connections 2000; } http { access_log off; server { listen unix:{tmp}/s; } }' > {tmp}/n.conf"),
    program("redis-jemalloc", "redis-server", "--port", "0", "--unixsocket", "{tmp}/s", "--save", "", kinds="glibc jemalloc", holder="jemalloc"),
    program("memcached", "memcached", "-u", "root", "-s", "{tmp}/s", "-t", "4"),
    program("haproxy", "haproxy", "-db", "-f", "{tmp}/h.cfg", setup="printf 'global\n maxconn 500\ndefaults\n mode tcp\n timeout client 1s\n timeout server 1s\n timeout connect 1s\nlisten a\n bind unix@{tmp}/s\n' > {tmp}/h.cfg"),
    program("dnsmasq", "dnsmasq", "-k", "-p", "0", "--dhcp-authoritative", "-u", "root", "-x", "{tmp}/pid"),
    # What the program has is the collector's.
    program("guile", "guile-3.0", "-c", "(define l (iota 300000)) (set! l #f) (gc) (let loop () (sleep 600) (loop))", holder="Boehm GC", wait=3),
    # Up to OCaml 4 the heap is malloc's.
    program("ocaml", "ocaml", feed="let l = List.init 200000 string_of_int;;\nlet m = List.filter (fun s -> String.length s < 3) l;;\n", wait=3),
    program("postgres-backend", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "{pg}/postgres", "-D", "{tmp}/d", "-k", "{tmp}", "-c", "listen_addresses=", "-c", "port=54399",
             setup="chmod 777 {tmp}; setpriv --reuid=65534 --regid=65534 --clear-groups env HOME={tmp} {pg}/initdb -D {tmp}/d -A trust -U p >/dev/null; (sleep 4; (echo 'create temp table t as select i, md5(i::text) from generate_series(1,50000) i; select count(*) from (select * from t order by 2) s;'; sleep 600) | psql -h {tmp} -p 54399 -U p template1 >/dev/null 2>&1) &",
             child="postgres:", wait=9),
)  # fmt: skip
