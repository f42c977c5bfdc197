"""Real programs on the preload library give the results that they give without it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import dmi

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.timeout(600),
]

OTHERS = ["eager", "lazy:delay=0.01", "lazy,hardened=on", "eager,hardened=on"]
POLICIES = ["lazy", *(pytest.param(policy, marks=pytest.mark.long) for policy in OTHERS)]


def need(program: str) -> str:
    """The program's path; the test is skipped where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program}")
    return found


def environment(policy: str | None) -> dict[str, str]:
    """Of a program on dmi; on the system's allocator with None."""
    dropped = ("LD_PRELOAD", "DMI_OPTIONS")
    made = {name: value for name, value in os.environ.items() if name not in dropped}
    if policy is not None:
        made |= {"LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": f"decommit={policy}"}
    return made


def output(
    policy: str | None, *command: str | Path, stdin: str = "", cwd: Path | None = None
) -> str:
    """What the program prints; it must end well and in silence on stderr."""
    done = subprocess.run(
        [os.fspath(part) for part in command],
        env=environment(policy),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, (command, done.returncode, done.stderr[-2000:])
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("policy", POLICIES)
def test_python(policy: str) -> None:
    script = """
import json, re, zlib, hashlib, collections
data = [{"n": i, "text": str(i) * (i % 50), "list": list(range(i % 30))} for i in range(20000)]
text = json.dumps(data)
assert json.loads(text) == data
words = collections.Counter(re.findall(r"[0-9]{2}", text))
print(len(words), hashlib.sha256(zlib.decompress(zlib.compress(text.encode()))).hexdigest())
"""
    made = output(policy, sys.executable, "-X", "dev", "-W", "ignore", "-c", script)
    assert made == output(None, sys.executable, "-c", script)


@pytest.mark.parametrize("policy", POLICIES)
def test_git(policy: str, tmp_path: Path) -> None:
    git = need("git")
    for n in range(300):
        (tmp_path / f"file{n}").write_text(f"{n}\n" * (n * 7 % 400))

    def on_dmi(*words: str) -> str:
        settings = ("-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main")
        return output(policy, git, *settings, *words, cwd=tmp_path)

    on_dmi("init", "-q")
    on_dmi("add", ".")
    on_dmi("commit", "-q", "-m", "first")
    for n in range(0, 300, 3):
        (tmp_path / f"file{n}").write_text(f"{n + 1}\n" * (n * 5 % 300))
    on_dmi("commit", "-q", "-a", "-m", "second")
    on_dmi("gc", "-q", "--aggressive")
    on_dmi("fsck", "--no-progress", "--strict")
    log = on_dmi("log", "-p", "--stat")
    assert log == output(None, git, "log", "-p", "--stat", cwd=tmp_path)
    assert log.count("\n") > 1000


@pytest.mark.parametrize("policy", POLICIES)
def test_sqlite(policy: str) -> None:
    sqlite = need("sqlite3")
    script = """
create table t(id integer primary key, word text, n real);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 60000)
    insert into t select x, printf('%08x-%s', x * 2654435761 % 4294967296,
        substr('abcdefghijklmnopqrstuvwxyz', x % 26, x % 13)), x * 1.5 from c;
create index w on t(word);
select count(*), sum(n), min(word), max(word) from t;
select substr(word, 1, 2) p, count(*), group_concat(id) from t group by p order by 2 desc limit 5;
delete from t where id % 3 = 0;
vacuum;
pragma integrity_check;
"""
    made = output(policy, sqlite, ":memory:", stdin=script)
    assert made == output(None, sqlite, ":memory:", stdin=script)
    assert made.endswith("ok\n")


@pytest.mark.parametrize("policy", POLICIES)
def test_jq(policy: str) -> None:
    jq = need("jq")
    program = """
[range(20000) | {id: ., s: ("x" * (. % 40 + 1))}] | group_by(.id % 17)
    | map({n: length, last: .[-1]}) | tojson | fromjson
"""
    assert output(policy, jq, "-nc", program) == output(None, jq, "-nc", program)


def _large_source(functions: int) -> str:
    body = "".join(
        f"struct s{n} {{ int a[{n % 9 + 1}]; struct s{n} *next; }};\n"
        f"int f{n}(struct s{n} *p, int k) {{ int sum = 0; for (; p; p = p->next) "
        f"for (int i = 0; i < {n % 9 + 1}; i++) switch ((p->a[i] + k) % 7) {{ "
        + "".join(f"case {c}: sum += p->a[i] * {n * c % 97 + 1} ^ k; break; " for c in range(7))
        + "} return sum; }\n"
        for n in range(functions)
    )
    return body + "int main(void) { return 0; }\n"


@pytest.mark.long
@pytest.mark.parametrize("policy", POLICIES)
def test_gcc_on_a_large_file(policy: str, tmp_path: Path) -> None:
    gcc = need("gcc")
    source = tmp_path / "large.c"
    source.write_text(_large_source(400))
    made = []
    for name, of in (("with.s", policy), ("without.s", None)):
        output(of, gcc, "-O2", "-S", source, "-o", tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert len(made[0]) > 400_000


@pytest.mark.long
@pytest.mark.parametrize(
    "policy", ["lazy", "lazy:delay=0.1", "eager", "lazy:delay=0.1,hardened=on"]
)
def test_redis_under_its_benchmark(policy: str, tmp_path: Path) -> None:
    server, bench, client = need("redis-server"), need("redis-benchmark"), need("redis-cli")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log = tmp_path / "log"
    settings = ("--save", "", "--dir", str(tmp_path), "--logfile", str(log), "--io-threads", "2")
    process = subprocess.Popen(
        [server, "--port", port, "--bind", "127.0.0.1", *settings], env=environment(policy)
    )

    def ask(*words: str) -> str:
        done = subprocess.run(
            [client, "-p", port, *words], capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout.strip()

    try:
        for _ in range(100):
            if ask("ping") == "PONG":
                break
            time.sleep(0.1)
        assert ask("ping") == "PONG"
        tests = "set,get,incr,lpush,rpush,lpop,sadd,hset,spop,zadd,lrange_100,mset"
        shape = ("-n", "20000", "-r", "100000", "-d", "300", "-P", "16", "-q")
        subprocess.run(
            [bench, "-p", port, "-t", tests, *shape], check=True, capture_output=True, timeout=300
        )
        assert int(ask("dbsize")) > 10000
        ask("bgsave")  # a fork of the threaded server that writes out everything
        for _ in range(300):
            if "rdb_bgsave_in_progress:0" in ask("info", "persistence"):
                break
            time.sleep(0.1)
        assert "rdb_last_bgsave_status:ok" in ask("info", "persistence")
        digest = ask("debug", "digest")
        # Debian's redis refuses DEBUG by default; the reload then only has to give the same keys.
        keys = ask("dbsize")
        ask("debug", "reload")
        assert (ask("debug", "digest"), ask("dbsize")) == (digest, keys)
        ask("flushall")
        assert ask("dbsize") == "0"
        ask("shutdown", "nosave")
        assert process.wait(timeout=60) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "crashed" not in log.read_text()


SCRIPTS = {
    "perl": ("-e", ('my %h; $h{$_ % 5003} .= "x$_" for 1 .. 120000; my @k = sort keys %h; '
             'print scalar(@k), " ", length(join "", @h{@k}), "\\n"')),
    "gawk": (('BEGIN { for (i = 0; i < 120000; i++) a[i % 7001] = a[i % 7001] i; '
             'for (k in a) n += length(a[k]); print n }'),),
    "bash": ("-c", ('for ((i = 0; i < 6000; i++)); do a[i]="$i$i"; s+=${a[i]}; done; '
             'echo ${#a[@]} ${#s} $(printf "%s\\n" "${a[@]}" | sort | tail -n 1)')),
    "php": ("-r", ('$a = []; for ($i = 0; $i < 60000; $i++) $a["k" . $i % 4001][] = '
            'str_repeat("v", $i % 60); ksort($a); '
            'echo count($a), " ", md5(json_encode($a)), "\\n";')),
    "xz": ("-9", "--threads=2", "--stdout", "--check=crc64", "/bin/sh"),
    "openssl": ("dgst", "-sha256", "/bin/sh"),
}  # fmt: skip
"""Programs that are on most machines, each with work that allocates for half a second at most."""


@pytest.mark.long
@pytest.mark.parametrize("name", SCRIPTS)
def test_other_programs_run_hardened(name: str) -> None:
    command = [need(name), *SCRIPTS[name]]
    made = {
        policy: subprocess.run(
            command, env=environment(policy), capture_output=True, timeout=300, check=False
        )
        for policy in (None, "lazy", "lazy,hardened=on", "eager,hardened=on")
    }
    plain = made.pop(None)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout
    for policy, done in made.items():
        assert (done.returncode, done.stderr) == (0, b""), policy
        assert done.stdout == plain.stdout, policy
