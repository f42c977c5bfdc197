"""More programs, chosen to surprise: each has something that the first set lacks.

Written and committed before any of them was looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from .programs import Program, program

__all__ = ["SURPRISES"]

_LIB: Final = "/usr/lib/x86_64-linux-gnu"
_MIX: Final = (
    "import threading,time\nkeep=[]\ndef work():\n"
    " b=[bytearray(600+n*37%60000) for n in range(1500)]\n del b[::3]\n keep.append(b)\n"
    " c=[bytearray(90) for n in range(300)]\n del c\n time.sleep(600)\n"
    "[threading.Thread(target=work).start() for n in range(5)]\ntime.sleep(600)\n"
)
_FORKED: Final = (
    "import os,time\nb=[bytearray(700+n%3000) for n in range(20000)]\ndel b[::2]\n"
    "if os.fork()==0:\n del b[::3]\n c=[bytearray(1500) for n in range(3000)]\n time.sleep(600)\n"
    "time.sleep(600)\n"
)
_ENDED: Final = (
    "import threading,time\nkeep=[]\ndef work():\n keep.append([bytearray(3000) for n in range(900)])\n"
    "for n in range(30):\n t=[threading.Thread(target=work) for n in range(4)]\n"
    " [x.start() for x in t]\n [x.join() for x in t]\n"
    "del keep[::2]\ntime.sleep(600)\n"
)
_ALIGNED: Final = (
    "import ctypes,time\nc=ctypes.CDLL(None)\np=ctypes.c_void_p()\nkeep=[]\n"
    "for n in range(3000):\n c.posix_memalign(ctypes.byref(p),4096,5000+n%9000);keep.append(p.value)\n"
    "for n in range(40):\n c.posix_memalign(ctypes.byref(p),1<<21,300000);keep.append(p.value)\n"
    "c.free.argtypes=[ctypes.c_void_p]\nfor x in keep[::2]: c.free(x)\ntime.sleep(600)\n"
)
_GROWN: Final = (
    "import ctypes,time\nc=ctypes.CDLL(None)\nc.malloc.restype=c.realloc.restype=ctypes.c_void_p\n"
    "c.realloc.argtypes=[ctypes.c_void_p,ctypes.c_size_t]\nk=[]\nfor n in range(60):\n p=c.malloc(100000)\n"
    " for s in range(1,9): p=c.realloc(p,s*150000)\n k.append(p)\nfor p in k[::3]: c.realloc(p,140000)\n"
    "time.sleep(600)\n"
)
_TOP_MOVED: Final = (
    "import ctypes,time\nc=ctypes.CDLL(None)\nc.sbrk.restype=ctypes.c_void_p\nk=[]\n"
    "for n in range(6):\n k.append([bytearray(2000+m%999) for m in range(2000)])\n c.sbrk(8192+16*n)\n"
    "del k[1::2]\ntime.sleep(600)\n"
)
_PHP: Final = (
    "[global]\\nerror_log = {tmp}/log\\ndaemonize = no\\n[w]\\nlisten = {tmp}/s\\npm = static\\n"
    "pm.max_children = 3\\n"
)
_YUV: Final = "YUV4MPEG2 W640 H360 F25:1 Ip A1:1 C420\n" + ("FRAME\n" + "x" * 345600) * 40
_PG: Final = "setpriv --reuid=65534 --regid=65534 --clear-groups"


_one: Final = partial(program, wait=2.0)


def _python(name: str, code: str, holder: str = "glibc", **environment: str) -> Program:
    return _one(
        name, "/usr/bin/python3", "-c", code, kinds="glibc pymalloc", holder=holder, **environment
    )


SURPRISES: Final = (
    _one("php-fpm", "php-fpm8.2", "-F", "-R", "-y", "{tmp}/f.conf", setup=f"printf '{_PHP}' > {{tmp}}/f.conf",
         kinds="glibc Zend", holder="glibc|Zend", child="pool w"),
    _one("apache", "apache2", "-X", "-d", "{tmp}", "-f", "{tmp}/a.conf",
         setup="printf 'LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\\n"
         "LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\\nListen 127.0.0.1:0\\n"
         "PidFile {tmp}/pid\\nErrorLog {tmp}/log\\nServerName x\\nUser www-data\\n' > {tmp}/a.conf"),
    _one("lighttpd", "lighttpd", "-D", "-f", "{tmp}/l.conf",
         setup="printf 'server.document-root=\"{tmp}\"\\nserver.bind=\"{tmp}/s\"\\n' > {tmp}/l.conf"),
    # The pool of its pages is mapped by itself.
    _one("mariadb", "mariadbd", "--no-defaults", "--user=root", "--datadir={tmp}/d", "--socket={tmp}/s",
         "--skip-networking", setup="mariadb-install-db --no-defaults --user=root --datadir={tmp}/d",
         holder="glibc|unknown", wait=6),
    _one("r-peak", "R", "--vanilla", "--slave", "-e",
         "x <- lapply(1:60000, function(i) as.character(i:(i+9))); y <- x[seq(1,60000,50)]; rm(x); z <- gc(); Sys.sleep(600)",
         child="R", wait=5),
    _one("ffmpeg-x264", "ffmpeg", "-loglevel", "quiet", "-f", "yuv4mpegpipe", "-i", "pipe:0", "-threads", "4",
         "-c:v", "libx264", "-f", "null", "-", feed=_YUV, wait=5),
    _one("octave", "octave-cli", "--no-history", feed="a=rand(1500); b=a*a; c=num2cell(b(1:200,1:200)); clear a\n", wait=6),
    _one("gnuplot", "gnuplot", feed="set term dumb\nset samples 50000\nplot sin(x), cos(x)\n", wait=3),
    _one("ghostscript", "gs", "-q", "-dNOPAUSE", "-sDEVICE=bit", "-sOutputFile=/dev/null",
         feed="/a 20000 array def 0 1 19999 {a exch 300 string put} for /a 0 def 2 vmreclaim\n", wait=3),
    # It has a collector of its own beside malloc.
    _one("inkscape", "inkscape", "--shell", holder="glibc|Boehm GC", wait=6),
    _one("postgres-parallel", *_PG.split(), "{pg}/postgres", "-D", "{tmp}/d", "-k", "{tmp}", "-c",
         "listen_addresses=", "-c", "port=54398", "-c", "max_parallel_workers_per_gather=2", "-c",
         "parallel_setup_cost=0", "-c", "parallel_tuple_cost=0", "-c", "min_parallel_table_scan_size=0",
         setup=f"chmod 777 {{tmp}}; {_PG} env HOME={{tmp}} {{pg}}/initdb -D {{tmp}}/d -A trust -U p >/dev/null; "
         "(sleep 4; (echo 'create table t as select i from generate_series(1,30000) i; analyze t; "
         "select count(*) from t where pg_sleep(60) is not null;'; sleep 600) | psql -h {tmp} -p 54398 -U p "
         "template1 >/dev/null 2>&1) &", child="parallel worker", wait=12),
    _one("dbus", "dbus-daemon", "--session", "--nofork", "--address=unix:path={tmp}/s"),
    _one("stunnel-like-openssl", "openssl", "speed", "-seconds", "1", "-bytes", "16384", "sha256", wait=0.6),
    _one("perl-threads", "perl", "-Mthreads", "-e",
         "my @t=map{threads->create(sub{my %h=map{$_=>'x'x($_%200)}1..9000; delete $h{$_} for grep{$_%5}1..9000; sleep 600})}1..4; sleep 600", wait=4),
    # Checked blocks: malloc is another library's copy of it.
    _python("malloc-check", _MIX, MALLOC_CHECK_="3", GLIBC_TUNABLES="glibc.malloc.check=3"),
    _python("forked-parent", _FORKED),
    _one("forked-child", "/usr/bin/python3", "-c", _FORKED, kinds="glibc pymalloc", child="python3"),
    _python("threads-that-ended", _ENDED),
    _python("aligned", _ALIGNED),
    _python("grown-by-mremap", _GROWN),
    _python("others-move-the-break", _TOP_MOVED),
    _python("mix", _MIX),
    _python("mix-perturb", _MIX, GLIBC_TUNABLES="glibc.malloc.perturb=170"),
    _python("mix-no-fastbins", _MIX, GLIBC_TUNABLES="glibc.malloc.mxfast=0"),
    _python("mix-large-cache", _MIX, GLIBC_TUNABLES="glibc.malloc.tcache_max=1032:glibc.malloc.tcache_count=2000"),
    _python("mix-one-arena", _MIX, MALLOC_ARENA_MAX="1", MALLOC_TOP_PAD_="1048576"),
    _python("mix-no-mmap", _MIX, GLIBC_TUNABLES="glibc.malloc.mmap_max=0"),
    _python("mix-huge-pool", _MIX, GLIBC_TUNABLES="glibc.malloc.hugetlb=2"),
    _python("mix-trim-at-once", _MIX, GLIBC_TUNABLES="glibc.malloc.trim_threshold=4096"),
)  # fmt: skip
