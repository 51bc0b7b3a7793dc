//! Rust futures as Python awaitables: `spawn_local` and `Completer`.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::Poll;

use pyo3::exceptions::PyValueError;
use rloop::embed::{Completer, LoopHandle, spawn_local};

use super::tasks::wait_until;
use super::*;

/// Counts its drops.
struct Dropped(Arc<AtomicU32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A future that is ready after `turns` wakes, each from another thread.
fn woken(turns: u32) -> impl Future<Output = PyResult<u32>> {
    let polls = Rc::new(Cell::new(0));
    poll_fn(move |context| {
        polls.set(polls.get() + 1);
        if polls.get() > turns {
            return Poll::Ready(Ok(polls.get()));
        }
        let waker = context.waker().clone();
        std::thread::spawn(move || waker.wake());
        Poll::Pending
    })
}

#[test]
fn local_futures_are_polled_by_the_loop() {
    let event_loop = start();
    let polls: u32 = event_loop.block_on_as(|py| spawn_local(py, woken(50))).unwrap();
    assert_eq!(polls, 51);
    let polls: u32 = event_loop.block_on_as(|py| spawn_local(py, woken(0))).unwrap();
    assert_eq!(polls, 1);
    assert_eq!(event_loop.metrics().futures_spawned, 2);
    assert_eq!(event_loop.metrics().futures_alive, 0);
}

#[test]
fn wakes_from_within_and_after_the_end_are_harmless() {
    let event_loop = start();
    let kept = Arc::new(std::sync::Mutex::new(None));
    let keep = kept.clone();
    let polls: u32 = event_loop
        .block_on_as(move |py| {
            let mut polls = 0;
            spawn_local(
                py,
                poll_fn(move |context| {
                    polls += 1;
                    *keep.lock().unwrap() = Some(context.waker().clone());
                    context.waker().wake_by_ref();
                    context.waker().wake_by_ref();
                    if polls == 10 { Poll::Ready(PyResult::Ok(polls)) } else { Poll::Pending }
                }),
            )
        })
        .unwrap();
    assert_eq!(polls, 10);
    let waker = kept.lock().unwrap().take().unwrap();
    waker.wake_by_ref();
    let again: u32 = event_loop.block_on_as(|py| spawn_local(py, woken(3))).unwrap();
    assert_eq!(again, 4);
    event_loop.shutdown(SOON).unwrap();
    waker.wake();
}

#[test]
fn cancelling_the_awaitable_drops_the_future() {
    let drops = Arc::new(AtomicU32::new(0));
    let event_loop = start();
    let main = function("async def main(awaitable): await awaitable", "main");
    let dropped = Dropped(drops.clone());
    let task = event_loop
        .spawn_with(move |py| {
            let awaitable = spawn_local(py, async move {
                let _dropped = dropped;
                std::future::pending::<PyResult<()>>().await
            })?;
            main.bind(py).call1((awaitable,))
        })
        .unwrap();
    wait_until(|| event_loop.metrics().futures_alive == 1);
    assert_eq!(drops.load(SeqCst), 0);
    drop(task);
    wait_until(|| event_loop.metrics().futures_alive == 0);
    assert_eq!(drops.load(SeqCst), 1);
}

#[test]
fn a_loop_that_ends_drops_its_futures() {
    let drops = Arc::new(AtomicU32::new(0));
    let event_loop = start();
    for _ in 0..10 {
        let dropped = Dropped(drops.clone());
        event_loop
            .call_soon(move |py| {
                let pending = async move {
                    let _dropped = dropped;
                    std::future::pending::<PyResult<()>>().await
                };
                spawn_local(py, pending).map(drop)
            })
            .unwrap();
    }
    wait_until(|| event_loop.metrics().futures_alive == 10);
    event_loop.shutdown(SOON).unwrap();
    event_loop.join().unwrap();
    assert_eq!(drops.load(SeqCst), 10);
}

#[test]
fn errors_and_panics_are_exceptions() {
    let event_loop = start();
    let error = event_loop
        .block_on_with(|py| spawn_local(py, async { Err::<(), _>(PyValueError::new_err("no")) }))
        .unwrap_err();
    assert_eq!(text_of(&error), "ValueError: no");
    let missing = || std::io::Error::from_raw_os_error(2);
    let error = event_loop
        .block_on_with(move |py| spawn_local(py, async move { Err::<(), _>(missing()) }))
        .unwrap_err();
    assert!(text_of(&error).starts_with("FileNotFoundError"), "{}", text_of(&error));
    let error = event_loop
        .block_on_with(|py| {
            spawn_local(py, async {
                woken(1).await?;
                panic!("oh");
                #[allow(unreachable_code)]
                PyResult::Ok(())
            })
        })
        .unwrap_err();
    assert_eq!(text_of(&error), "RuntimeError: panic in Rust: oh");
}

#[test]
fn python_is_awaited_from_within() {
    let double = function("async def double(x): return 2 * x", "double");
    let event_loop = start();
    let handle = event_loop.handle().clone();
    let answer: i64 = event_loop
        .block_on_as(move |py| {
            spawn_local(py, async move {
                let task = handle.spawn_as::<i64, _>(move |py| double.bind(py).call1((4,)))?;
                PyResult::Ok(task.await? + 1)
            })
        })
        .unwrap();
    assert_eq!(answer, 9);
}

#[test]
fn contexts_are_copied() {
    let source = "
import contextvars
variable = contextvars.ContextVar('variable', default='none')
async def main(see):
    variable.set('mine')
    awaitable = see()
    variable.set('later')
    return await awaitable
";
    let app = module(source);
    let main = Python::attach(|py| app.bind(py).getattr("main").unwrap().unbind());
    let event_loop = start();
    let seen: String = event_loop
        .block_on_as(move |py| {
            let see = pyo3::types::PyCFunction::new_closure(py, None, None, move |args, _| {
                let app = app.clone_ref(args.py());
                let future = async move {
                    woken(2).await?;
                    Python::attach(|py| {
                        app.bind(py).getattr("variable")?.call_method0("get")?.extract::<String>()
                    })
                };
                spawn_local(args.py(), future).map(Bound::unbind)
            })?;
            main.bind(py).call1((see,))
        })
        .unwrap();
    assert_eq!(seen, "mine");
}

#[test]
fn a_loop_that_goes_on_on_another_thread_fails_its_futures() {
    let drops = Arc::new(AtomicU32::new(0));
    let (dropped, waker) = (Dropped(drops.clone()), Arc::new(std::sync::Mutex::new(None)));
    let (event_loop, handle) = Python::attach(|py| {
        rloop::embed::install(py).unwrap();
        let event_loop = py.import("rloop").unwrap().call_method0("new_event_loop").unwrap();
        let handle = LoopHandle::of(&event_loop).unwrap();
        (event_loop.unbind(), handle)
    });
    let run = || {
        std::thread::scope(|scope| {
            let running =
                || Python::attach(|py| event_loop.call_method0(py, "run_forever").map(drop).unwrap());
            scope.spawn(running).join().unwrap();
        })
    };
    let (tell, told) = std::sync::mpsc::channel();
    let (keep, stop) = (waker.clone(), Python::attach(|py| event_loop.clone_ref(py)));
    handle
        .call_soon(move |py| {
            let local = Rc::new(dropped);
            let pending = poll_fn(move |context| {
                let _kept = &local;
                *keep.lock().unwrap() = Some(context.waker().clone());
                Poll::<PyResult<()>>::Pending
            });
            tell.send(spawn_local(py, pending)?.unbind()).unwrap();
            stop.call_method0(py, "stop").map(drop)
        })
        .unwrap();
    run();
    let awaitable = told.recv_timeout(SOON).unwrap();
    // It was dropped with the loop's thread, in whose table it was.
    assert_eq!(drops.load(SeqCst), 1);
    assert_eq!(handle.metrics().futures_alive, 0);
    waker.lock().unwrap().take().unwrap().wake();
    Python::attach(|py| event_loop.call_method0(py, "stop").map(drop).unwrap());
    run();
    Python::attach(|py| {
        let error = PyErr::from_value(awaitable.bind(py).call_method0("exception").unwrap());
        assert!(error.to_string().contains("on another thread"), "{error}");
        event_loop.call_method0(py, "close").unwrap();
    });
}

#[test]
fn outside_of_a_loop_is_an_error() {
    let event_loop = start();
    Python::attach(|py| {
        let error = spawn_local(py, async { PyResult::Ok(()) }).unwrap_err();
        assert!(error.to_string().contains("no running event loop"), "{error}");
        let asyncio = py.import("asyncio").unwrap().call_method0("new_event_loop").unwrap();
        assert!(LoopHandle::of(&asyncio).is_err_and(|error| error.to_string().contains("rloop.Loop")));
        asyncio.call_method0("close").unwrap();
    });
    drop(event_loop);
}

#[test]
fn completers_complete_from_any_thread() {
    let event_loop = start();
    let complete = |finish: fn(Completer<i64>)| {
        event_loop.block_on_as::<i64, _>(move |py| {
            let (completer, awaitable) = LoopHandle::current(py)?.completer(py)?;
            std::thread::spawn(move || finish(completer));
            Ok(awaitable)
        })
    };
    assert_eq!(complete(|completer| completer.complete(PyResult::Ok(7))).unwrap(), 7);
    let error = complete(|completer| completer.complete(Err(PyValueError::new_err("no")))).unwrap_err();
    assert_eq!(text_of(&error), "ValueError: no");
    let error = complete(drop).unwrap_err();
    assert_eq!(text_of(&error), "RuntimeError: dropped by Rust without having been completed");
    assert_eq!(event_loop.metrics().completions, 3);
}
