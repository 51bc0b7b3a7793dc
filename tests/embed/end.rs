//! How loops end: stopped, dropped, in a storm, by themselves, and with the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use rloop::embed::{LoopHandle, ShutdownError, spawn_local};

use super::tasks::wait_until;
use super::*;

#[test]
fn tasks_are_cancelled_and_waited_for() {
    let app = module(
        "
import asyncio
log = []
async def slow_to_end():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)
        log.append('ended')
",
    );
    let event_loop = start();
    let begin = Python::attach(|py| app.bind(py).getattr("slow_to_end").unwrap().unbind());
    let task = event_loop.spawn_with(move |py| begin.bind(py).call0()).unwrap();
    let nothing: i64 = event_loop.block_on_as(|py| spawn_local(py, async { PyResult::Ok(1) })).unwrap();
    assert_eq!(nothing, 1);
    event_loop.shutdown(SOON).unwrap();
    assert!(task.is_finished());
    let log: Vec<String> = Python::attach(|py| app.bind(py).getattr("log").unwrap().extract().unwrap());
    assert_eq!(log, ["ended"]);
}

#[test]
fn shutdown_tells_when_it_takes_too_long() {
    let source = "
import asyncio
async def stubborn():
    for _ in range(3):
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            pass
";
    let stubborn = function(source, "stubborn");
    let event_loop = start();
    let task = event_loop.spawn_with(move |py| stubborn.bind(py).call0()).unwrap();
    let nothing: i64 = event_loop.block_on_as(|py| spawn_local(py, async { PyResult::Ok(1) })).unwrap();
    assert_eq!(nothing, 1);
    assert_eq!(event_loop.shutdown(Duration::from_millis(1)), Err(ShutdownError::TimedOut));
    assert_eq!(event_loop.shutdown(SOON), Ok(()));
    assert_eq!(event_loop.shutdown(SOON), Err(ShutdownError::Closed));
    drop(task);
}

#[test]
fn on_its_own_thread_shutdown_only_asks() {
    let event_loop = start();
    let handle = event_loop.handle().clone();
    let (tell, told) = std::sync::mpsc::channel();
    event_loop.call_soon(move |_| Ok(tell.send(handle.shutdown(SOON)).unwrap())).unwrap();
    assert_eq!(told.recv_timeout(SOON).unwrap(), Err(ShutdownError::OwnThread));
    event_loop.join().unwrap();
}

#[test]
fn a_loop_that_python_stops_is_closed() {
    let event_loop = start();
    event_loop
        .call_soon(|py| LoopHandle::current(py)?.event_loop(py).call_method0("stop").map(drop))
        .unwrap();
    event_loop.join().unwrap();
}

#[test]
fn system_exit_ends_the_loop_and_is_told() {
    let event_loop = start();
    let handle = event_loop.handle().clone();
    let leave = function("async def leave(): raise SystemExit(3)", "leave");
    let error = event_loop.block_on_with(move |py| leave.bind(py).call0()).unwrap_err();
    assert_eq!(text_of(&error), "SystemExit: 3");
    let error = event_loop.join().unwrap_err();
    assert_eq!(text_of(&error), "SystemExit: 3");
    assert!(handle.is_closed());
}

#[test]
fn a_task_is_not_waited_for_on_a_loop_that_was_just_closed() {
    let wait = function("import asyncio\nasync def wait(): await asyncio.Event().wait()", "wait");
    let task = Python::attach(|py| {
        rloop::embed::install(py).unwrap();
        let event_loop = py.import("rloop").unwrap().call_method0("new_event_loop").unwrap();
        let handle = LoopHandle::of(&event_loop).unwrap();
        let task = handle.spawn(wait.bind(py).call0().unwrap()).unwrap();
        event_loop.call_method1("call_soon", (event_loop.getattr("stop").unwrap(),)).unwrap();
        event_loop.call_method0("run_forever").unwrap();
        assert!(!task.is_finished());
        // Python reports that the task is pending, which is true.
        let quiet = py.eval(c"lambda loop, context: None", None, None).unwrap();
        event_loop.call_method1("set_exception_handler", (quiet,)).unwrap();
        event_loop.call_method0("close").unwrap();
        assert_eq!(handle.metrics().tasks_alive, 0);
        task
    });
    assert_eq!(
        text_of(&super::tasks::futures_executor(task).unwrap_err()),
        "RuntimeError: Event loop is closed"
    );
}

/// Several threads use the loop in every way while it ends. Each future must end, and nothing may be reported.
#[test]
fn a_storm_of_drops_and_cancels_is_silent() {
    let app = module(
        "
import asyncio, sys, warnings
said = []
warnings.simplefilter('always')
warnings.showwarning = lambda message, *args: said.append(str(message))
sys.unraisablehook = lambda args: said.append(repr(args.exc_value))
async def wait(awaitable=None):
    await (awaitable or asyncio.sleep(60))
",
    );
    for round in 0..20 {
        let event_loop = start();
        let reports = collect_reports(&event_loop);
        let ended = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (handle, ended) = (event_loop.handle().clone(), ended.clone());
                let wait = Python::attach(|py| app.bind(py).getattr("wait").unwrap().unbind());
                std::thread::spawn(move || storm(number, &handle, &wait, &ended))
            })
            .collect();
        let handle = event_loop.handle().clone();
        wait_until(|| handle.metrics().tasks_spawned > 50 * round);
        event_loop.shutdown(SOON).unwrap();
        drop(event_loop);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let metrics = handle.metrics();
        assert_eq!((metrics.tasks_alive, metrics.futures_alive), (0, 0), "{metrics:?}");
        assert_eq!(ended.load(SeqCst), 4);
        assert_eq!(strings(&reports), Vec::<String>::new());
    }
    Python::attach(|py| {
        py.import("gc").unwrap().call_method0("collect").unwrap();
        let said: Vec<String> = app.bind(py).getattr("said").unwrap().extract().unwrap();
        assert_eq!(said, Vec::<String>::new());
    });
}

fn storm(number: u32, handle: &LoopHandle, wait: &Py<PyAny>, ended: &AtomicU32) {
    let mut kept = Vec::new();
    for n in 0.. {
        let wait = Python::attach(|py| wait.clone_ref(py));
        let spawned = match (n + number) % 3 {
            0 => handle.spawn_with(move |py| wait.bind(py).call0()),
            1 => handle.spawn_with(move |py| {
                let pending = spawn_local(py, std::future::pending::<PyResult<()>>())?;
                wait.bind(py).call1((pending,))
            }),
            _ => Python::attach(|py| handle.spawn(wait.bind(py).call0().unwrap())),
        };
        let Ok(task) = spawned else { break };
        if n % 2 == 0 {
            kept.push(task);
        }
        if n % 7 == 0 {
            kept.pop();
        }
        if n % 11 == 0
            && let Some(task) = kept.last()
        {
            task.cancel();
        }
    }
    for task in kept {
        assert!(super::tasks::futures_executor(task).is_err());
    }
    ended.fetch_add(1, SeqCst);
}

/// The test runs itself in other processes, each of which ends in another way.
#[test]
fn a_host_ends_cleanly_with_loops_alive() {
    for how in ["return", "forget", "finalize", "exit"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "end::the_host_that_ends", "--ignored", "--nocapture"])
            .env("RLOOP_TEST_END", how)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{how}: {:?} {stderr}", output.status);
    }
}

#[test]
#[ignore = "run by the test above"]
fn the_host_that_ends() {
    let how = std::env::var("RLOOP_TEST_END").unwrap_or_default();
    let busy = function(
        "
import asyncio
async def busy():
    while True:
        await asyncio.sleep(0)
",
        "busy",
    );
    let event_loops = [start(), start()];
    for event_loop in &event_loops {
        let busy = Python::attach(|py| busy.clone_ref(py));
        event_loop.spawn_with(move |py| busy.bind(py).call0()).unwrap().detach();
    }
    std::thread::sleep(Duration::from_millis(20));
    match how.as_str() {
        "forget" => std::mem::forget(event_loops),
        "exit" => std::process::exit(0),
        "finalize" => {
            // SAFETY: this is the thread that started Python, and only the loops' threads use it besides.
            let status = unsafe {
                pyo3::ffi::PyGILState_Ensure();
                pyo3::ffi::Py_FinalizeEx()
            };
            assert_eq!(status, 0);
            assert!(event_loops.iter().all(|event_loop| event_loop.is_closed()));
            assert!(event_loops[0].call_soon(|_| Ok(())).is_err());
            assert!(event_loops[0].block_on_with(|py| Ok(py.None().into_bound(py))).is_err());
            // Rust objects that refer to Python must not be dropped now that Python is gone.
            std::process::exit(0);
        }
        _ => drop(event_loops),
    }
}
