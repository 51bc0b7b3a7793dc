//! Round trips between Rust and Python, by rloop and by pyo3-async-runtimes with tokio on asyncio's loop.
//!
//!     rloop-awaits rloop|runtimes rust|python AWAITS CLIENTS
//!
//! `rust`: tasks on a tokio runtime await Python coroutines. `python`: Python tasks await futures of the tokio runtime,
//! each of which yields once. CLIENTS tasks run at the same time. A tenth of the round trips is a warm-up. Prints the
//! round trips per second, the CPU time per round trip in microseconds (user and system), and by how many kilobytes the
//! process has grown since the warm-up. The sum of all results is checked.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyCFunction;
use rloop::embed::LoopThread;
use tokio::runtime::Runtime;

const APP: &CStr = c"
import asyncio

async def double(x):
    return 2 * x

async def call(future, first, count, clients):
    async def client(n):
        total = 0
        while n < count:
            total += await future(n)
            n += clients
        return total
    return sum(await asyncio.gather(*(client(n) for n in range(first, first + clients))))

def start_asyncio():
    import threading
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
";

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [which, direction, count, clients] = &arguments[..] else {
        return Err("usage: rloop-awaits rloop|runtimes rust|python AWAITS CLIENTS".into());
    };
    let (count, clients): (u64, u64) = (count.parse()?, clients.parse()?);
    let bench = Bench::new(which == "rloop")?;
    let half = |count| match direction.as_str() {
        "rust" => bench.rust_awaits_python(count, clients),
        _ => bench.python_awaits_rust(count, clients),
    };
    check(half(count / 10)?, count / 10)?;
    let (resident, cpu, start) = (resident()?, cpu_seconds()?, Instant::now());
    check(half(count)?, count)?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let grown = self::resident()?.saturating_sub(resident);
    println!("{:.0} {:.2} {grown}", count as f64 / seconds, cpu * 1e6 / count as f64);
    Ok(())
}

fn check(sum: u64, count: u64) -> Result<(), Failure> {
    if sum == count * (count - 1) { Ok(()) } else { Err("an await was lost, or answered wrongly".into()) }
}

/// The resident memory of this process, in kilobytes.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
}

/// The CPU time of all threads of this process.
fn cpu_seconds() -> Result<f64, Failure> {
    Ok(Python::attach(|py| py.import("time")?.call_method0("process_time")?.extract())?)
}

struct Bench {
    /// None if pyo3-async-runtimes is measured.
    rloop: Option<LoopThread>,
    runtime: Runtime,
    app: Arc<Py<PyModule>>,
    asyncio: Py<PyAny>,
}

impl Bench {
    fn new(rloop: bool) -> PyResult<Self> {
        Python::initialize();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_time();
        pyo3_async_runtimes::tokio::init({
            let mut same = tokio::runtime::Builder::new_multi_thread();
            same.worker_threads(2).enable_time();
            same
        });
        let (app, asyncio) = Python::attach(|py| -> PyResult<_> {
            let app = PyModule::from_code(py, APP, c"app.py", c"app")?;
            let asyncio = if rloop { py.None() } else { app.call_method0("start_asyncio")?.unbind() };
            Ok((app.unbind(), asyncio))
        })?;
        let rloop = if rloop { Some(LoopThread::start()?) } else { None };
        Ok(Self { rloop, runtime: builder.build()?, app: Arc::new(app), asyncio })
    }

    fn rust_awaits_python(&self, count: u64, clients: u64) -> Result<u64, Failure> {
        match &self.rloop {
            Some(event_loop) => {
                let client = |first| {
                    let (handle, app) = (event_loop.handle().clone(), self.app.clone());
                    async move {
                        let mut sum = 0;
                        for n in (first..count).step_by(clients as usize) {
                            let app = app.clone();
                            let task = handle
                                .spawn_as::<u64, _>(move |py| app.bind(py).getattr("double")?.call1((n,)))?;
                            sum += task.await?;
                        }
                        Ok(sum)
                    }
                };
                sum_of((0..clients).map(|first| self.runtime.spawn(client(first))), &self.runtime)
            }
            None => {
                let runtime = pyo3_async_runtimes::tokio::get_runtime();
                let client = |first| {
                    let app = self.app.clone();
                    let locals = Python::attach(|py| {
                        pyo3_async_runtimes::TaskLocals::new(self.asyncio.bind(py).clone())
                    });
                    async move {
                        let mut sum = 0;
                        for n in (first..count).step_by(clients as usize) {
                            let awaited = Python::attach(|py| {
                                let coroutine = app.bind(py).getattr("double")?.call1((n,))?;
                                pyo3_async_runtimes::into_future_with_locals(&locals, coroutine)
                            })?;
                            let result = awaited.await?;
                            sum += Python::attach(|py| result.extract::<u64>(py))?;
                        }
                        Ok(sum)
                    }
                };
                sum_of((0..clients).map(|first| runtime.spawn(client(first))), runtime)
            }
        }
    }

    fn python_awaits_rust(&self, count: u64, clients: u64) -> Result<u64, Failure> {
        let double = |n: u64| async move {
            tokio::task::yield_now().await;
            PyResult::Ok(2 * n)
        };
        let app = self.app.clone();
        match &self.rloop {
            Some(event_loop) => {
                let runtime = self.runtime.handle().clone();
                Ok(event_loop.block_on_as(move |py| {
                    let future = PyCFunction::new_closure(py, None, None, move |args, _| {
                        let n: u64 = args.get_item(0)?.extract()?;
                        rloop::embed::tokio::spawn(args.py(), &runtime, double(n)).map(Bound::unbind)
                    })?;
                    app.bind(py).getattr("call")?.call1((future, 0, count, clients))
                })?)
            }
            None => Ok(Python::attach(|py| -> PyResult<u64> {
                let future = PyCFunction::new_closure(py, None, None, move |args, _| {
                    let n: u64 = args.get_item(0)?.extract()?;
                    pyo3_async_runtimes::tokio::future_into_py(args.py(), double(n)).map(Bound::unbind)
                })?;
                let coroutine = app.bind(py).getattr("call")?.call1((future, 0, count, clients))?;
                let submit = py.import("asyncio")?.getattr("run_coroutine_threadsafe")?;
                submit.call1((coroutine, self.asyncio.bind(py)))?.call_method0("result")?.extract()
            })?),
        }
    }
}

/// Waits for all clients; returns the sum of their results.
fn sum_of(
    clients: impl Iterator<Item = tokio::task::JoinHandle<Result<u64, PyErr>>>,
    runtime: &Runtime,
) -> Result<u64, Failure> {
    let clients: Vec<_> = clients.collect();
    let mut sum = 0;
    for client in clients {
        sum += runtime.block_on(client)??;
    }
    Ok(sum)
}
