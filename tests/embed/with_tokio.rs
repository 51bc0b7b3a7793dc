//! The adapters for tokio.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use rloop::embed::spawn_local;

use super::tasks::wait_until;
use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
}

#[test]
fn tokio_futures_are_awaited_from_python_and_the_other_way_round() {
    let (runtime, event_loop) = (runtime(), start());
    let main = function("async def main(awaitable): return 'slept ' + await awaitable", "main");
    let tokio = runtime.handle().clone();
    let task = event_loop.spawn_as::<String, _>(move |py| {
        let sleep = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            PyResult::Ok("well")
        };
        main.bind(py).call1((rloop::embed::tokio::spawn(py, &tokio, sleep)?,))
    });
    assert_eq!(runtime.block_on(task.unwrap()).unwrap(), "slept well");
}

#[test]
fn errors_and_panics_are_exceptions() {
    let (runtime, event_loop) = (runtime(), start());
    let tokio = runtime.handle().clone();
    let error = event_loop
        .block_on_with(move |py| {
            let fails = async { Err::<(), _>(std::io::Error::from(std::io::ErrorKind::TimedOut)) };
            rloop::embed::tokio::spawn(py, &tokio, fails)
        })
        .unwrap_err();
    assert!(text_of(&error).starts_with("TimeoutError"), "{}", text_of(&error));
    let tokio = runtime.handle().clone();
    let panics = async {
        if true {
            panic!("in tokio");
        }
        PyResult::Ok(())
    };
    let error =
        event_loop.block_on_with(move |py| rloop::embed::tokio::spawn(py, &tokio, panics)).unwrap_err();
    assert_eq!(text_of(&error), "RuntimeError: panic in Rust: in tokio");
}

#[test]
fn cancelling_the_awaitable_aborts_the_task() {
    struct Dropped(Arc<AtomicU32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let (runtime, event_loop) = (runtime(), start());
    let drops = Arc::new(AtomicU32::new(0));
    let (dropped, tokio) = (Dropped(drops.clone()), runtime.handle().clone());
    let source = "
import asyncio
async def main(awaitable):
    try:
        await asyncio.wait_for(awaitable, 0.01)
    except asyncio.TimeoutError:
        return 'late'
";
    let main = function(source, "main");
    let said: String = event_loop
        .block_on_as(move |py| {
            let sleep = async move {
                let _dropped = dropped;
                tokio::time::sleep(SOON).await;
                PyResult::Ok(())
            };
            main.bind(py).call1((rloop::embed::tokio::spawn(py, &tokio, sleep)?,))
        })
        .unwrap();
    assert_eq!(said, "late");
    wait_until(|| drops.load(SeqCst) == 1);
}

#[test]
fn local_futures_find_the_runtime() {
    let (runtime, event_loop) = (runtime(), start());
    let tokio = runtime.handle().clone();
    let said: i64 = event_loop
        .block_on_as(move |py| {
            let sleep = async {
                let local = std::rc::Rc::new(3);
                tokio::time::sleep(Duration::from_millis(5)).await;
                PyResult::Ok(*local)
            };
            spawn_local(py, rloop::embed::tokio::within(tokio, sleep))
        })
        .unwrap();
    assert_eq!(said, 3);
}
