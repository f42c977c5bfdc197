"""Middleware: each request or task in a context, on bare protocols and under real frameworks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dmi
from tests.python.test_python_contexts import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="install() is for Linux")


def needs(*modules: str) -> None:
    """Skip where one is not installed."""
    for name in modules:
        pytest.importorskip(name)


def test_a_wsgi_answer_is_made_in_its_context_part_by_part() -> None:
    run("""
        from dmi.python.middleware import WSGI
        seen, closed = [], []
        class Answer:
            def __init__(self): self.left = 3
            def __iter__(self): return self
            def __next__(self):
                if not self.left: raise StopIteration
                self.left -= 1
                seen.append(dmi.python.current())
                return b"x"
            def close(self): closed.append(dmi.python.current())
        def app(environ, start_response):
            seen.append(dmi.python.current())
            start_response("200 OK", [])
            return Answer() if environ["PATH_INFO"] == "/stream" else [b"whole"]
        wrapped = WSGI(app, lambda environ: "path " + environ["PATH_INFO"])
        answer = wrapped({"PATH_INFO": "/stream"}, lambda *_: None)
        for part in answer: assert dmi.python.current() is None and part == b"x"
        answer.close()
        assert seen == ["path /stream"] * 4 and closed == ["path /stream"]
        assert wrapped({"PATH_INFO": "/a"}, lambda *_: None) == [b"whole"]
        bounded = WSGI(lambda e, s: [b"x" * 10 for _ in range(10**6)], "bounded", limit=1 << 20)
        try: bounded({}, None)
        except MemoryError: pass
        else: raise SystemExit("no limit")
    """)


def test_an_asgi_application_runs_in_its_context() -> None:
    run("""
        from dmi.python.middleware import ASGI
        seen = []
        async def app(scope, receive, send):
            seen.append(dmi.python.current())
            await asyncio.sleep(0)
            seen.append(dmi.python.current())
            if scope.get("fail"): raise KeyError
        wrapped = ASGI(app, lambda scope: scope["path"])
        async def main():
            await wrapped({"type": "lifespan"}, None, None)
            await asyncio.gather(*[wrapped({"type": "http", "path": f"/{n}"}, None, None)
                                   for n in range(3)])
            try: await wrapped({"type": "http", "path": "/f", "fail": True}, None, None)
            except KeyError: pass
            assert dmi.python.current() is None
        asyncio.run(main())
        assert sorted(map(str, seen)) == sorted(
            ["None"] * 2 + ["/0"] * 2 + ["/1"] * 2 + ["/2"] * 2 + ["/f"] * 2)
    """)


@pytest.mark.long
def test_flask_serves_on_pages_of_the_request() -> None:
    needs("flask")
    run("""
        import flask
        from dmi.python.middleware import WSGI
        app = flask.Flask("app")
        @app.route("/<int:n>")
        def page(n):
            app.kept = made(n)
            return {"context": dmi.python.current()}
        app.wsgi_app = WSGI(app.wsgi_app, lambda environ: "tenant " + environ["HTTP_X_TENANT"])
        client = app.test_client()
        for tenant in ("a", "b"):
            for _ in range(20):
                answer = client.get("/300", headers={"X-Tenant": tenant})
                assert answer.json == {"context": "tenant " + tenant}, answer.json
        assert places(app.kept) == {"tenant b"}
        names = [row.name for row in usage()]
        assert names == ["outside", "tenant a", "tenant b"], names
    """)


@pytest.mark.long
def test_starlette_serves_on_pages_of_the_request() -> None:
    needs("starlette", "httpx")
    run("""
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, StreamingResponse
        from starlette.routing import Route
        from starlette.testclient import TestClient
        from dmi.python.middleware import ASGI
        async def page(request):
            await asyncio.sleep(0)
            return JSONResponse({"context": dmi.python.current()})
        def sync(request): return JSONResponse({"context": dmi.python.current()})
        async def stream(request):
            async def parts():
                for _ in range(3):
                    await asyncio.sleep(0)
                    yield str(dmi.python.current()) + ";"
            return StreamingResponse(parts())
        routes = {"/page": page, "/sync": sync, "/stream": stream}
        app = Starlette(routes=[Route(path, made) for path, made in routes.items()])
        app.add_middleware(ASGI, name=lambda scope: "route " + scope["path"])
        with TestClient(app) as client:
            for _ in range(10):
                for path in ("/page", "/sync"):
                    assert client.get(path).json() == {"context": "route " + path}
                assert client.get("/stream").text == "route /stream;" * 3
    """)


@pytest.mark.long
def test_celery_runs_tasks_on_pages_of_their_own() -> None:
    needs("celery")
    run("""
        import celery
        dmi.python.middleware.celery(lambda task: "task " + task.name)
        app = celery.Celery("app")
        app.conf.update(task_always_eager=True)
        @app.task(name="work")
        def work(n): return dmi.python.current(), len(made(n))
        @app.task(name="fail")
        def fail(): raise KeyError
        assert work.delay(100).get() == ("task work", 100)
        assert fail.delay().failed()
        assert dmi.python.current() is None
    """)


WORK = """
import os, celery, dmi
dmi.python.middleware.celery(lambda task: "task " + task.name, limit=8 << 20)
app = celery.Celery("app", broker="filesystem://", backend="file://" + os.path.abspath("results"))
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "processed_folder": "done",
}
@app.task(name="work")
def work(n):
    rows = [{"n": k} for k in range(n)]
    return dmi.python.current(), dmi.python.context_of(rows[-1])
@app.task(name="grow")
def grow(): return len([bytes(1000) for _ in range(100_000)])
"""
ASK = """
from work import grow, work
assert work.delay(1000).get(timeout=40) == ["task work", "task work"]
for _ in range(2):
    try: grow.delay().get(timeout=40)
    except Exception as error:
        assert type(error).__name__ == "LimitError" and "'task grow'" in str(error), repr(error)
    else: raise SystemExit("no limit")
assert work.delay(1000).get(timeout=40) == ["task work", "task work"]
print("all well")
"""


@pytest.mark.long
def test_a_celery_worker_outlives_a_task_that_passes_its_limit(tmp_path: Path) -> None:
    needs("celery")
    for name in ("queue", "done", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "ask.py").write_text(ASK)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "work", "worker", "-c", "1", "--pool", "prefork"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{Path(dmi.__file__).parent.parent}{os.pathsep}."},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        asked = subprocess.run(
            [sys.executable, "ask.py"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(dmi.__file__).parent.parent)},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        said = worker.communicate()[0]
    assert asked.stdout == "all well\n", asked.stderr + said
