"""How a program of each language is written out: three phases, after each of which it says so and
waits for a line."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from .programs import Program

__all__ = ["COMMANDS", "WAIT", "build", "language", "source"]

WAIT: Final = {
    # A program that asks a server leaves the server's number in look.
    "python": "print('{0}', globals().get('look', ''), flush=True); input()",
    "node": "console.log('{0}'); require('fs').readSync(0, Buffer.alloc(1));",
    "perl": '$| = 1; print "{0}\\n"; my $l{0} = <STDIN>;',
    "php": 'echo "{0}\\n"; fgets(STDIN);',
    "lua": "io.stdout:write('{0}\\n'); io.stdout:flush(); io.read()",
    "ruby": "STDOUT.sync = true; puts '{0}'; gets",
    "java": 'System.out.println("{0}"); System.in.read();',
    "go": 'fmt.Println("{0}"); in.ReadString(10)',
    "r": 'cat("{0}\\n"); invisible(readLines(f, n = 1))',
    "c++": 'puts("{0}"); fflush(stdout); getchar();',
    "gawk": 'print "{0}"; fflush(); getline l < "-"',
    "tcl": "puts {0}; flush stdout; gets stdin",
    "guile": '(display "{0}\\n") (force-output) (read-line)',
    "sbcl": '(format t "{0}~%") (finish-output) (read-line)',
    "octave": 'disp("{0}"); fflush(stdout); input("", "s");',
    "pypy": "print('{0}', flush=True); input()",
    "ocaml": 'print_endline "{0}"; ignore (read_line ());;',
    "erlang": 'io:format("{0}~n"), io:get_line(""),',
    "mono": 'Console.WriteLine("{0}"); Console.In.ReadLine();',
    "prolog": "writeln({0}), flush_output, read_line_to_string(user_input, _),",
    "rust": 'println!("{0}"); std::io::stdin().read_line(&mut String::new()).unwrap();',
}
_GO: Final = (
    'package main\nimport ("bufio"; "fmt"; "os"; "runtime/debug")\nvar x [][]byte\n'
    "var _ = debug.FreeOSMemory\nfunc main() {\nin := bufio.NewReader(os.Stdin)\n"
)
_AROUND: Final = {
    "php": ("<?php\n", ""),
    "java": (
        "public class Program { public static void main(String[] a) throws Exception {\n",
        '\nSystem.out.println(x()); } static String x() { return "end"; } }',
    ),
    "go": (_GO, "\n}"),
    "r": ('f <- file("stdin", "r")\n', ""),
    "c++": ("", "\n}"),
    "gawk": ("BEGIN {\n", "\n}"),
    "guile": ("(use-modules (ice-9 rdelim) (srfi srfi-1))\n", ""),
    "erlang": ("#!/usr/bin/env escript\nmain(_) ->\n", "\nok."),
    "mono": (
        "using System; using System.Collections.Generic; class Program { static void Main() {\n",
        "\nGC.KeepAlive(x); } }",
    ),
    "prolog": (":- initialization(main, main).\nmain :-\n", "\ntrue."),
    "rust": ("fn main() {\n", "\ndrop(x); }"),
}
COMMANDS: Final = {
    "node": "node", "perl": "perl", "ruby": "ruby", "php": "php", "lua": "lua5.4", "java": "java",
    "go": "env", "r": "Rscript", "c++": "env", "gawk": "gawk", "tcl": "tclsh", "guile": "guile",
    "sbcl": "sbcl", "octave": "octave-cli", "pypy": "pypy3", "ocaml": "ocaml", "erlang": "escript",
    "mono": "mono", "prolog": "swipl", "rust": "env",
}  # fmt: skip

_FILES: Final = {
    "java": "Program.java", "go": "main.go", "c++": "main.cpp", "mono": "Program.cs",
    "prolog": "program.pl", "rust": "main.rs",
}  # fmt: skip


def language(each: Program) -> str:
    """What the program is written in; the other words of ``on`` are options, and dmi."""
    kind = each.on.partition(" ")[0]
    return kind if kind in WAIT else "python"


def source(each: Program) -> str:
    """The text of the program, which stops after each phase."""
    kind = language(each)
    head, tail = _AROUND.get(kind, ("", ""))
    parts = (head + each.setup, WAIT[kind].format("before"), each.peak, WAIT[kind].format("peak"),
             each.rest, WAIT[kind].format("after"))  # fmt: skip
    return "\n".join(parts) + tail + "\n"


def build(each: Program, place: Path, folder: Path) -> list[str]:
    """Writes the program into ``place``, compiles it where its language asks for it, and gives what
    its command is to be told."""
    kind = language(each)
    script = place / _FILES.get(kind, "program")
    script.write_text(source(each), encoding="utf-8")
    if kind == "java":
        subprocess.run(["javac", "-d", str(place), str(script)], check=True)
        return ["-cp", str(place), "Program"]
    if kind == "go":
        cache = {**os.environ, "GOCACHE": str(folder / "go"), "CGO_ENABLED": "0"}
        subprocess.run(["go", "build", "-o", "main", "main.go"], cwd=place, env=cache, check=True)
        return [str(place / "main")]
    if kind == "c++":
        # Its first line, a comment, has what it is linked with.
        libraries = each.setup.partition("\n")[0].removeprefix("//").split()
        command = ["g++", "-O1", "-pthread", "-o", "main", "main.cpp", *libraries]
        subprocess.run(command, cwd=place, check=True)
        return [str(place / "main")]
    if kind == "mono":
        subprocess.run(["mcs", "-out:Program.exe", "Program.cs"], cwd=place, check=True)
        return [str(place / "Program.exe")]
    if kind == "rust":
        subprocess.run(["rustc", "-O", "-o", "main", "main.rs"], cwd=place, check=True)
        return [str(place / "main")]
    return [str(script)]
