//! Many awaits across threads, in both directions: no loss, no growth. `AWAITS=1000000` runs as many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rloop::embed::{LoopHandle, spawn_local};

use super::*;

const THREADS: u64 = 2;
const AT_ONCE: u64 = 50;

fn awaits() -> u64 {
    std::env::var("AWAITS").map_or(20_000, |count| count.parse().unwrap())
}

/// Kilobytes of memory in use.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS as usize)
        .enable_time()
        .build()
        .unwrap()
}

/// Runs as many awaits as it is asked for, and then as many again, which must not need more memory.
fn without_growth(half: impl Fn(u64)) {
    half(awaits());
    let before = resident();
    half(awaits());
    let growth = resident().saturating_sub(before);
    // Other tests that run at the same time, and the allocator, may use some.
    assert!(growth < 20_000, "{growth} kB more");
}

#[test]
fn rust_awaits_python() {
    let event_loop = start();
    let runtime = runtime();
    let double = Arc::new(function("async def double(x): return 2 * x", "double"));
    without_growth(|count| {
        let sum = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..AT_ONCE)
            .map(|first| {
                let (handle, double, sum) = (event_loop.handle().clone(), double.clone(), sum.clone());
                runtime.spawn(async move {
                    for n in (first..count).step_by(AT_ONCE as usize) {
                        let double = double.clone();
                        let task = handle.spawn_as::<u64, _>(move |py| double.bind(py).call1((n,)));
                        sum.fetch_add(task.unwrap().await.unwrap(), SeqCst);
                    }
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        assert_eq!(sum.load(SeqCst), count * (count - 1));
    });
    assert_eq!(event_loop.metrics().tasks_spawned, 2 * awaits());
    assert_eq!(event_loop.metrics().tasks_alive, 0);
}

#[test]
fn python_awaits_rust() {
    let event_loop = start();
    let runtime = Arc::new(runtime());
    let source = "
import asyncio
async def main(count, at_once, futures):
    async def client(first):
        total = 0
        for n in range(first, count, at_once):
            total += await futures[n % len(futures)](n)
        return total
    return sum(await asyncio.gather(*(client(first) for first in range(at_once))))
";
    let main = function(source, "main");
    without_growth(|count| {
        let (tokio, main) = (runtime.handle().clone(), Python::attach(|py| main.clone_ref(py)));
        let total: u64 = event_loop
            .block_on_as(move |py| {
                let runtime = tokio.clone();
                let on_tokio = pyo3::types::PyCFunction::new_closure(py, None, None, move |args, _| {
                    let n: u64 = args.get_item(0)?.extract()?;
                    let double = async move {
                        tokio::task::yield_now().await;
                        PyResult::Ok(2 * n)
                    };
                    rloop::embed::tokio::spawn(args.py(), &runtime, double).map(Bound::unbind)
                })?;
                let local = pyo3::types::PyCFunction::new_closure(py, None, None, move |args, _| {
                    let n: u64 = args.get_item(0)?.extract()?;
                    let task = tokio.spawn(async move { 2 * n });
                    let double = async move { PyResult::Ok(task.await.unwrap()) };
                    spawn_local(args.py(), double).map(Bound::unbind)
                })?;
                main.bind(py).call1((count, AT_ONCE, (on_tokio, local)))
            })
            .unwrap();
        assert_eq!(total, count * (count - 1));
    });
    let metrics = event_loop.metrics();
    assert_eq!(metrics.completions + metrics.futures_spawned, 2 * awaits());
    assert_eq!(metrics.futures_alive, 0);
}

#[test]
fn call_soon_from_many_threads() {
    let event_loop = start();
    let count = awaits();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let handle: LoopHandle = event_loop.handle().clone();
            std::thread::spawn(move || (0..count).for_each(|_| handle.call_soon(|_| Ok(())).unwrap()))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    super::tasks::wait_until(|| event_loop.metrics().callbacks == 4 * count);
}
