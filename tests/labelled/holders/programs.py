"""Programs of runtimes and allocators whose blocks are not walked, and what is right: the labels.

holder   whose memory most of it is, of what allocators have in memory; several where the build says
least    MiB that the holder must be said to have at least, for the program keeps so much
use      whether it can be known how much of it is used
heaps    how many heaps of that kind there are, where that is known
`{tmp}` in a command is a folder of its own with the files of the program; other names are places that the
caller gives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PROGRAMS", "Program"]


@dataclass(frozen=True)
class Program:
    """One program and its label."""

    name: str
    command: str
    holder: str
    least: int
    use: bool = False
    heaps: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    feed: str = ""
    """What goes to its standard input, which stays open."""
    build: str = ""
    """A shell command that runs first, in its folder."""
    child: str = ""
    """The name of the descendant that is meant; empty: the program itself."""
    wait: float = 2.0
    core: bool = True
    """False: what it reserves is more than gcore writes in a reasonable time."""


_PERL: Final = (
    'my %kept; $kept{$_} = "text $_" x 9 for 1 .. 200000; $| = 1; print "ready\\n"; sleep 600;'
)
_PAGE: Final = """<script>
let kept = [];
for (let n = 0; n < 300000; n++) kept.push({n, text: "text " + n});
</script>
"""
_CSHARP: Final = """
using System;
using System.Collections.Generic;
class Kept {
    static void Main() {
        var kept = new List<object>();
        for (int i = 0; i < 900; i++) {
            var piece = new byte[70000];
            for (int j = 0; j < piece.Length; j += 512) piece[j] = 1;
            kept.Add(piece);
        }
        for (int i = 0; i < 200000; i++) kept.Add("text " + i);
        Console.WriteLine("ready " + kept.Count);
        System.Threading.Thread.Sleep(600000);
        Console.WriteLine(kept.Count);
    }
}
"""
_RUNTIME: Final = """{"runtimeOptions": {"framework": {"name": "Microsoft.NETCore.App",
 "version": "3.1.0"}, "configProperties": {"System.Globalization.Invariant": true}}}
"""
_JAVA: Final = """
import java.util.ArrayList;
class Kept {
    public static void main(String[] words) throws Exception {
        var kept = new ArrayList<byte[]>();
        for (int i = 0; i < 900; i++) {
            byte[] piece = new byte[70000];
            java.util.Arrays.fill(piece, (byte) i);
            kept.add(piece);
        }
        System.out.println("ready " + kept.size());
        Thread.sleep(600000);
        System.out.println(kept.size());
    }
}
"""
_GO: Final = """
package main

import (
	"fmt"
	"time"
)

func main() {
	var kept [][]byte
	for i := 0; i < 900; i++ {
		b := make([]byte, 70000)
		for j := range b {
			b[j] = 1
		}
		kept = append(kept, b)
	}
	fmt.Println("ready")
	time.Sleep(10 * time.Minute)
	fmt.Println(len(kept))
}
"""
_ENVOY: Final = """
admin: {address: {pipe: {path: ADMIN}}}
static_resources:
  clusters:
CLUSTERS
"""
_MANY_CLUSTERS: Final = """
text = open("envoy.yaml").read().replace("ADMIN", "./admin")
one = "  - {name: c%d, type: STATIC, load_assignment: {cluster_name: c%d, endpoints: []}}"
open("envoy.yaml", "w").write(
    text.replace("CLUSTERS", "\\n".join(one % (n, n) for n in range(1500))))
"""
_POLARS: Final = """
import time
import polars
kept = polars.DataFrame({"a": polars.arange(0, 9_000_000, eager=True)})
kept = kept.with_columns((polars.col("a") * 3).alias("b"))
print("ready", flush=True)
time.sleep(600)
"""
_OBJECTS: Final = """
import time
kept = [(n, str(n), {n: n}) for n in range(250000)]
del kept[::3]
print("ready", flush=True)
time.sleep(600)
"""
# What each interpreter says of itself goes to a file: the bytes of its blocks in use.
_INTERPRETERS: Final = '''
import re, sys, time, os
try:
    import _interpreters as them
    make = lambda: them.create("isolated")
except ImportError:
    import _xxsubinterpreters as them
    make = lambda: them.create(isolated=True)
WORK = """
kept = [(n, str(n) * 3, [n]) for n in range(COUNT)]
del kept[::5]
"""
SAY = """
import sys, os, re
file = os.open("said-NUMBER", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
saved = os.dup(2); os.dup2(file, 2); sys._debugmallocstats(); os.dup2(saved, 2)
"""
ids = [make() for _ in range(3)]
for number, each in enumerate(ids):
    them.run_string(each, WORK.replace("COUNT", str(40000 + 20000 * number)))
exec(WORK.replace("COUNT", "30000"))
for number, each in enumerate(ids):
    them.run_string(each, SAY.replace("NUMBER", str(number + 1)))
exec(SAY.replace("NUMBER", "0"))
print("ready", flush=True)
time.sleep(600)
'''
_ERLANG: Final = (
    "L = [binary:copy(<<I:32>>, 20) || I <- lists:seq(1, 900000)], "
    'io:format(\\"ready ~p~n\\", [length(L)]), timer:sleep(600000), io:format(\\"~p\\", [length(L)]).'
)
_LISP: Final = (
    "(progn (defparameter *kept* (loop for i below 900 collect (make-array 70000 :element-type "
    "'(unsigned-byte 8) :initial-element 1))) (gc :full t) (print :ready) (finish-output) (sleep 600))"
)
_JS: Final = (
    "globalThis.kept = []; for (let i = 0; i < 600000; i++) kept.push({i, s: 'a' + i}); "
    "console.log('ready'); setInterval(() => {}, 1e6)"
)
_LUA: Final = (
    "kept = {} for i = 1, 300000 do kept[i] = {i, tostring(i)} end print('ready') io.read()"
)
_PROLOG: Final = (
    "numlist(1, 1500000, L), forall(member(X, L), assertz(kept(X, [X]))), write(ready), nl, "
    "flush_output, sleep(600)"
)
_RACKET: Final = (
    "(define kept (for/list ([i 900]) (make-bytes 70000 1))) (displayln 'ready) (flush-output) "
    "(sleep 600) (display (length kept))"
)
_R: Final = (
    "kept <- lapply(1:900, function(i) runif(9000)); cat('ready\\n'); Sys.sleep(600); length(kept)"
)
_HASKELL: Final = """
import qualified Data.Map.Strict as M
import Control.Concurrent
import System.IO
main :: IO ()
main = do
  let kept = M.fromList [(n, show n) | n <- [1 .. 400000 :: Int]]
  print (sum (map length (M.elems kept)))
  hFlush stdout
  threadDelay 600000000
  print (M.size kept)
"""
_BLOCKS: Final = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static char *kept[40000];
int main(void) {
    for (int i = 0; i < 40000; i++) {
        kept[i] = malloc(100 + i % 1900);
        memset(kept[i], 1, 100 + i % 1900);
    }
    for (int i = 0; i < 40000; i++)
        if (i % 7) free(kept[i]);
    puts("ready");
    fflush(stdout);
    sleep(600);
    return kept[7] != 0;
}
"""
_PAGE: Final = "<script>kept=[];for(i=0;i<800000;i++)kept.push({i:i,s:'x'+i})</script>"
_VARNISH: Final = "vcl 4.1; backend b none; sub vcl_recv { return (synth(200)); }"


def _said(**values: object) -> str:
    text = json.dumps({"jsonrpc": "2.0", **values})
    return f"Content-Length: {len(text)}\r\n\r\n{text}"


# An editor opens a file of 80,000 lines.
_EDITOR: Final = (
    _said(id=1, method="initialize", params={"capabilities": {}})
    + _said(method="initialized", params={})
    + _said(
        method="textDocument/didOpen",
        params={"textDocument": {"uri": "file:///tmp/a.py", "languageId": "python", "version": 1,
                                 "text": "".join(f"x{n} = [{n}, 'a' * {n}]\n" for n in range(80000))}},
    )
)  # fmt: skip


def _java(name: str, switch: str) -> Program:
    return Program(
        name, f"java -Xmx300m {switch} -cp {{tmp}} Kept", "JVM", 60,
        files={"Kept.java": _JAVA}, build="javac Kept.java", wait=4,
    )  # fmt: skip


def _interpreters(name: str) -> Program:
    return Program(
        f"interpreters-{name}", f"{{{name}}} {{tmp}}/work.py", "pymalloc", 20, use=True, heaps=4,
        files={"work.py": _INTERPRETERS}, wait=4,
    )  # fmt: skip


def _blocks(
    name: str, holder: str, build: str, command: str = "{tmp}/kept", least: int = 30
) -> Program:
    return Program(
        name, command, holder, least, files={"kept.c": _BLOCKS}, build=f"{build} kept.c -o kept",
        wait=4, core=False,
    )  # fmt: skip


PROGRAMS: Final = (
    Program(
        "dotnet", "{venv}/lib/python3.11/site-packages/dotnetcore2/bin/dotnet {tmp}/kept.dll",
        ".NET", 60, files={"kept.cs": _CSHARP, "kept.runtimeconfig.json": _RUNTIME},
        build="mcs -out:kept.dll kept.cs", wait=4,
    ),
    Program(
        "mono", "mono {tmp}/kept.exe", ".NET", 60,
        files={"kept.cs": _CSHARP}, build="mcs -out:kept.exe kept.cs", wait=4,
    ),
    _java("java-zgc", "-XX:+UseZGC"),
    _java("java-g1", "-XX:+UseG1GC"),
    _java("java-serial", "-XX:+UseSerialGC"),
    _java("java-shenandoah", "-XX:+UseShenandoahGC"),
    Program(
        "go", "{tmp}/kept", "Go", 60, files={"kept.go": _GO},
        build="GOFLAGS=-mod=mod HOME=$PWD go build -o kept kept.go",
    ),
    # These were labelled after they had been looked at.
    _blocks("scudo", "scudo", "clang -fsanitize=scudo"),
    _blocks("asan", "AddressSanitizer", "gcc -fsanitize=address"),
    _blocks("tsan", "ThreadSanitizer", "gcc -fsanitize=thread"),
    _blocks("msan", "MemorySanitizer", "clang -fsanitize=memory"),
    _blocks("memcheck", "valgrind", "gcc", "valgrind -q {tmp}/kept"),
    Program(
        "chromium-page", "chromium --headless --no-sandbox --disable-gpu --remote-debugging-port=0 {tmp}/page.html",
        "V8 or PartitionAlloc", 30, files={"page.html": _PAGE}, child="type=renderer", wait=12, core=False,
    ),
    Program(
        "chromium", "chromium --headless --no-sandbox --disable-gpu --remote-debugging-port=0 {tmp}/page.html",
        "V8 or PartitionAlloc", 10, files={"page.html": _PAGE}, child="headless", wait=12, core=False,
    ),
    # Built with Google's own tcmalloc, not that of gperftools.
    Program(
        "envoy", "{venv}/lib/python3.11/site-packages/envoy/_bin/envoy -c envoy.yaml --concurrency 2",
        "tcmalloc", 8,
        files={"envoy.yaml": _ENVOY, "many.py": _MANY_CLUSTERS}, build="python3 many.py", wait=5,
    ),
    # Written in Rust, with jemalloc linked statically.
    Program("ruff", "{venv}/bin/ruff server", "jemalloc", 1, feed=_EDITOR, wait=5),
    Program("polars", "{venv}/bin/python {tmp}/work.py", "jemalloc", 100, files={"work.py": _POLARS}, wait=4),
    Program("python-free-threaded", "{python3.13t} {tmp}/work.py", "mimalloc", 30, files={"work.py": _OBJECTS}, wait=5),
    _interpreters("python3.12"),
    _interpreters("python3.13"),
    _interpreters("python3.14"),
    # Nobody had tried these when they were labelled.
    Program("erlang", f'erl -noshell -eval "{_ERLANG}"', "Erlang", 60, wait=4),
    Program("sbcl", f'sbcl --noinform --non-interactive --eval "{_LISP}"', "SBCL", 60, wait=4),
    # Its collector maps its arenas by itself; nobody else's name is right.
    Program("pypy", "pypy3 {tmp}/work.py", "PyPy|unknown", 30, files={"work.py": _OBJECTS}, wait=4),
    # Objects lie in the heap of JavaScriptCore.
    Program("bun", "{node}/bun/bin/bun.exe {tmp}/work.js", "JavaScriptCore|unknown", 20, files={"work.js": _JS}, wait=4),
    Program("deno", "{node}/@deno/linux-x64-glibc/deno run {tmp}/work.js", "V8", 20, files={"work.js": _JS}, wait=4),
    Program("esbuild", "{node}/@esbuild/linux-x64/bin/esbuild --serve=127.0.0.1:0 --servedir={tmp}", "Go", 1),
    Program("luajit", f'luajit -e "{_LUA}"', "LuaJIT", 20),
    # Debian links it with tcmalloc of gperftools.
    Program("prolog", f'swipl -g "{_PROLOG}"', "tcmalloc", 60, wait=8),
    # Of these the labels were written after a first look. A place of theirs is built outside:
    # ocaml5, go127: programs; snmalloc, rpmalloc: libraries that take the place of malloc.
    Program("ocaml-5", "{ocaml5}", "OCaml", 40, wait=3),
    Program("go-1.27", "{go127}", "Go", 30, wait=3),
    Program("snmalloc", "env LD_PRELOAD={snmalloc} perl {tmp}/kept.pl", "snmalloc", 20, files={"kept.pl": _PERL}),
    Program("rpmalloc", "env LD_PRELOAD={rpmalloc} perl {tmp}/kept.pl", "rpmalloc", 20, files={"kept.pl": _PERL}),
    Program("python-on-jemalloc", "env LD_PRELOAD={jemalloc} {venv}/bin/python {tmp}/work.py", "pymalloc", 30,
            use=True, files={"work.py": _OBJECTS}, wait=5),
    Program("firefox", "firefox-esr --headless --no-remote --profile {tmp} file://{tmp}/page.html",
            "mozjemalloc or SpiderMonkey", 60, files={"page.html": _PAGE}, wait=15, core=False),
    Program("racket", f'racket -e "{_RACKET}"', "Racket|unknown", 60, wait=5),
    Program("r", f'R --vanilla --slave -e "{_R}"', "glibc", 60, use=True, child="R", wait=4),
    Program("haskell", "{tmp}/kept", "GHC", 30, files={"kept.hs": _HASKELL}, build="ghc -O1 kept.hs -o kept", wait=5),
    Program("varnish", "varnishd -F -a {tmp}/s -n {tmp}/n -f {tmp}/v.vcl -s malloc,64m", "jemalloc", 1,
            files={"v.vcl": _VARNISH}, child="cache-main", wait=5),
)  # fmt: skip
