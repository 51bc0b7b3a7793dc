//! Python coroutines as Rust futures, and callbacks.

use std::future::Future;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use rloop::embed::{LoopClosed, LoopHandle, PyTask};

use super::*;

const APP: &str = "
import asyncio, contextvars
variable = contextvars.ContextVar('variable', default='none')
log = []

async def double(x):
    await asyncio.sleep(0.001)
    return 2 * x

async def fail():
    await asyncio.sleep(0)
    deeper()

def deeper():
    raise KeyError('missing')

async def see():
    return variable.get()

async def wait():
    try:
        await asyncio.Event().wait()
    finally:
        log.append('ended')

async def wait_a_little():
    await asyncio.sleep(0.05)
    log.append('done')

def set_and_see(value):
    variable.set(value)
    return see()
";

fn is_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn handles_are_for_every_thread() {
    fn check<T: Clone + Send + Sync>() {}
    check::<LoopHandle>();
}

#[test]
fn a_result_arrives() {
    let double = function(APP, "double");
    let event_loop = start();
    let value = Python::attach(|py| {
        // The GIL is held here. `block_on` releases it while it waits.
        event_loop.block_on(double.bind(py).call1((4,)).unwrap()).unwrap().extract::<i64>(py).unwrap()
    });
    assert_eq!(value, 8);
    let value: i64 = event_loop.block_on_as(move |py| double.bind(py).call1((21,))).unwrap();
    assert_eq!(value, 42);
    assert_eq!(event_loop.metrics().tasks_spawned, 2);
    assert_eq!(event_loop.metrics().tasks_alive, 0);
}

#[test]
fn whatever_can_be_awaited_is() {
    let event_loop = start();
    let value: i64 = event_loop
        .block_on_as(|py| {
            let future = LoopHandle::current(py)?.event_loop(py).call_method0("create_future")?;
            future.call_method1("set_result", (5,))?;
            Ok(future)
        })
        .unwrap();
    assert_eq!(value, 5);
    let error = event_loop.block_on_with(|py| Ok(py.None().into_bound(py))).unwrap_err();
    Python::attach(|py| assert!(error.is_instance_of::<PyTypeError>(py)));
}

#[test]
fn exceptions_arrive_with_their_traceback() {
    let fail = function(APP, "fail");
    let event_loop = start();
    let error = event_loop.block_on_with(move |py| fail.bind(py).call0()).unwrap_err();
    Python::attach(|py| {
        assert_eq!(error.to_string(), "KeyError: 'missing'");
        let traceback = error.traceback(py).unwrap().format().unwrap();
        assert!(traceback.contains("in fail") && traceback.contains("in deeper"), "{traceback}");
    });
}

#[test]
fn panics_and_errors_of_the_host_are_exceptions() {
    let event_loop = start();
    let reports = collect_reports(&event_loop);
    let error = event_loop.block_on_with(|_| panic!("in make")).unwrap_err();
    assert_eq!(text_of(&error), "RuntimeError: panic in Rust: in make");
    let double = function(APP, "double");
    let error = event_loop.block_on_as::<String, _>(move |py| double.bind(py).call1((1,))).unwrap_err();
    Python::attach(|py| assert!(error.is_instance_of::<PyTypeError>(py)));
    event_loop.call_soon(|_| panic!("in call_soon")).unwrap();
    event_loop.call_soon(|_| Err(PyRuntimeError::new_err("an error"))).unwrap();
    let nothing: i64 = event_loop.block_on_as(|py| ready(py, 0)).unwrap();
    assert_eq!(nothing, 0);
    let expected = ["RuntimeError('panic in Rust: in call_soon')", "RuntimeError('an error')"];
    assert_eq!(strings(&reports), expected);
}

fn ready(py: Python<'_>, value: i64) -> PyResult<Bound<'_, PyAny>> {
    rloop::embed::spawn_local(py, async move { PyResult::Ok(value) })
}

#[test]
fn debug_mode_names_what_is_slow() {
    let app = module(
        "
import logging
class Collect(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
said = []
handler = Collect()
logger = logging.getLogger('asyncio')
logger.propagate = False
",
    );
    let event_loop = start();
    let count = Python::attach(|py| {
        let app = app.bind(py);
        let logger = app.getattr("logger").unwrap();
        logger.call_method1("addHandler", (app.getattr("handler").unwrap(),)).unwrap();
        let python = event_loop.event_loop(py).clone().unbind();
        event_loop
            .call_soon(move |py| {
                python.bind(py).setattr("slow_callback_duration", 0)?;
                python.bind(py).call_method1("set_debug", (true,)).map(drop)
            })
            .unwrap();
        event_loop
            .block_on_as::<i64, _>(|py| {
                LoopHandle::current(py)?.event_loop(py).call_method1("set_debug", (false,))?;
                ready(py, 0)
            })
            .unwrap();
        logger.call_method1("removeHandler", (app.getattr("handler").unwrap(),)).unwrap();
        let said: Vec<String> = app.getattr("said").unwrap().extract().unwrap();
        said.iter().filter(|text| text.starts_with("Executing a callback of the host took 0.0")).count()
    });
    assert_eq!(count, 1);
}

#[test]
fn contexts_are_copied_at_spawn() {
    let app = module(APP);
    let event_loop = start();
    let seen: String = Python::attach(|py| {
        let app = app.bind(py);
        let token = app.getattr("variable").unwrap().call_method1("set", ("mine",)).unwrap();
        let task = event_loop.spawn(app.call_method0("see").unwrap()).unwrap();
        app.getattr("variable").unwrap().call_method1("reset", (token,)).unwrap();
        py.detach(|| futures_executor(task)).unwrap().extract(py).unwrap()
    });
    assert_eq!(seen, "mine");
    // A thread without Python has no context. What one task sets is not seen by another one.
    let set = Python::attach(|py| app.bind(py).getattr("set_and_see").unwrap().unbind());
    let see = Python::attach(|py| app.bind(py).getattr("see").unwrap().unbind());
    let own: String = event_loop.block_on_as(move |py| set.bind(py).call1(("its own",))).unwrap();
    let none: String = event_loop.block_on_as(move |py| see.bind(py).call0()).unwrap();
    assert_eq!((own.as_str(), none.as_str()), ("its own", "none"));
}

#[test]
fn order_is_kept() {
    let event_loop = start();
    let (tell, told) = channel();
    for n in 0..1000 {
        let tell = tell.clone();
        event_loop.call_soon(move |_| Ok(tell.send(n).unwrap())).unwrap();
    }
    let received: Vec<i32> = (0..1000).map(|_| told.recv_timeout(SOON).unwrap()).collect();
    assert_eq!(received, (0..1000).collect::<Vec<_>>());
    assert_eq!(event_loop.metrics().callbacks, 1000);
}

#[test]
fn dropping_the_future_cancels_the_task() {
    let app = module(APP);
    let event_loop = start();
    let wait = Python::attach(|py| app.bind(py).getattr("wait").unwrap().unbind());
    let task = event_loop.spawn_with(move |py| wait.bind(py).call0()).unwrap();
    let mut task = Box::pin(is_send(task));
    assert!(matches!(poll_once(task.as_mut()), Poll::Pending));
    // When this has returned, the task has begun to wait.
    let nothing: i64 = event_loop.block_on_as(|py| ready(py, 0)).unwrap();
    assert_eq!(nothing, 0);
    drop(task);
    wait_until(|| event_loop.metrics().tasks_alive == 0);
    assert_eq!(log(&app), ["ended"]);
}

#[test]
fn a_detached_task_goes_on() {
    let app = module(APP);
    let event_loop = start();
    let wait = Python::attach(|py| app.bind(py).getattr("wait_a_little").unwrap().unbind());
    event_loop.spawn_with(move |py| wait.bind(py).call0()).unwrap().detach();
    wait_until(|| event_loop.metrics().tasks_alive == 0);
    assert_eq!(log(&app), ["done"]);
}

#[test]
fn cancel_lets_the_future_see_it() {
    let wait = function(APP, "wait");
    let event_loop = start();
    let task = event_loop.spawn_with(move |py| wait.bind(py).call0()).unwrap();
    task.cancel();
    let error = futures_executor(task).unwrap_err();
    // The error is the same whether the task was cancelled before it was made or while it waited.
    Python::attach(|py| assert!(error.is_instance_of::<CancelledError>(py), "{error}"));
}

#[test]
fn block_on_refuses_to_wait_for_itself() {
    let event_loop = start();
    let handle = event_loop.handle().clone();
    let (tell, told) = channel();
    event_loop
        .call_soon(move |_| {
            let refused = handle.block_on_with(|py| Ok(py.None().into_bound(py)));
            Ok(tell.send(text_of(&refused.unwrap_err())).unwrap())
        })
        .unwrap();
    assert!(told.recv_timeout(SOON).unwrap().contains("own thread"));
}

#[test]
fn after_close_everything_is_refused() {
    let double = function(APP, "double");
    let event_loop = start();
    let handle = event_loop.handle().clone();
    let (completer, _awaitable) =
        Python::attach(|py| handle.completer::<i64>(py).map(|(c, a)| (c, a.unbind())).unwrap());
    event_loop.shutdown(SOON).unwrap();
    assert!(handle.is_closed());
    assert_eq!(handle.call_soon(|_| Ok(())), Err(LoopClosed));
    assert_eq!(handle.stop(), Err(LoopClosed));
    assert_eq!(handle.shutdown(SOON), Err(rloop::embed::ShutdownError::Closed));
    assert!(matches!(handle.spawn_with(|py| Ok(py.None().into_bound(py))), Err(LoopClosed)));
    Python::attach(|py| {
        // The coroutine is closed, so that nothing warns of it.
        let coroutine = double.bind(py).call1((1,)).unwrap();
        assert!(matches!(handle.spawn(coroutine.clone()), Err(LoopClosed)));
        assert!(coroutine.getattr("cr_frame").unwrap().is_none());
        let error = handle.block_on(double.bind(py).call1((1,)).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "RuntimeError: Event loop is closed");
    });
    let (receiver, _sender) = rloop::embed::mio::net::UnixStream::pair().unwrap();
    let interest = rloop::embed::mio::Interest::READABLE;
    assert!(handle.register(receiver, interest, |_, _, _| Ok(())).is_err());
    completer.complete(PyResult::Ok(1));
    event_loop.join().unwrap();
    assert_eq!(handle.metrics().tasks_alive, 0);
}

fn log(app: &Py<PyModule>) -> Vec<String> {
    Python::attach(|py| app.bind(py).getattr("log").unwrap().extract().unwrap())
}

pub fn wait_until(condition: impl Fn() -> bool) {
    let mut left = SOON;
    while !condition() {
        let step = std::time::Duration::from_millis(1);
        std::thread::sleep(step);
        left = left.checked_sub(step).expect("it never came");
    }
}

pub fn poll_once<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// An executor that knows nothing of Python.
pub fn futures_executor<T>(task: PyTask<T>) -> PyResult<T> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(task)
}
