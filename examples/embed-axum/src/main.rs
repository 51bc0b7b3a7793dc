//! A web service by axum whose handlers await Python coroutines, which await Rust futures.
//!
//!     embed-axum [PORT]      prints "listening on ADDRESS"; ends when its standard input does
//!     curl 'ADDRESS/quote?name=apple&count=3'
//!
//! tokio runs the server and the look-up of prices. rloop runs app.py. Neither waits for a thread of the other.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Router, routing::get};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use rloop::embed::{LoopHandle, LoopThread};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

const APP: &CStr = c_str(concat!(include_str!("app.py"), "\0"));

const fn c_str(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("app.py contains a NUL"),
    }
}

/// The module `prices`, for Python.
#[pymodule]
mod prices {
    use super::*;

    /// The price of one piece. Raises KeyError for a name that is unknown.
    #[pyfunction]
    fn price(py: Python<'_>, name: String) -> PyResult<Bound<'_, PyAny>> {
        let runtime = RUNTIME.get().expect("set before Python starts");
        rloop::embed::tokio::spawn(py, runtime, look_up(name))
    }
}

static RUNTIME: std::sync::OnceLock<Handle> = std::sync::OnceLock::new();

/// Stands for a query of a database.
async fn look_up(name: String) -> PyResult<i64> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    match name.as_str() {
        "apple" => Ok(3),
        "pear" => Ok(4),
        _ => Err(PyKeyError::new_err(name)),
    }
}

/// The state that all handlers share.
struct Service {
    event_loop: LoopHandle,
    quote: Py<PyAny>,
}

#[derive(serde::Deserialize)]
struct Order {
    name: String,
    count: i64,
}

/// No thread of tokio waits for the interpreter here, because Python is called and its result is converted on the
/// loop's thread. If the client closes the connection, axum drops this future, which cancels the coroutine.
async fn quote(State(service): State<Arc<Service>>, Query(order): Query<Order>) -> (StatusCode, String) {
    let called = service.clone();
    let task = service.event_loop.spawn_as(move |py| called.quote.bind(py).call1((order.name, order.count)));
    let quoted: PyResult<Quote> = match task {
        Ok(task) => task.await,
        Err(closed) => return (StatusCode::SERVICE_UNAVAILABLE, closed.to_string()),
    };
    match quoted {
        Ok(quote) => (StatusCode::OK, format!("{} {}: {}", quote.count, quote.name, quote.total)),
        Err(error) => (StatusCode::NOT_FOUND, error.to_string()),
    }
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Quote {
    name: String,
    count: i64,
    total: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "0".to_owned());
    RUNTIME.get_or_init(Handle::current);
    pyo3::append_to_inittab!(prices);
    let event_loop = LoopThread::start()?;
    let quote_of_app = Python::attach(|py| -> PyResult<_> {
        Ok(PyModule::from_code(py, APP, c"app.py", c"app")?.getattr("quote")?.unbind())
    })?;

    let service = Service { event_loop: event_loop.handle().clone(), quote: quote_of_app };
    let app = Router::new().route("/quote", get(quote)).with_state(Arc::new(service));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    let end = async {
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    };
    axum::serve(listener, app).with_graceful_shutdown(end).await?;
    tokio::task::spawn_blocking(move || {
        event_loop.shutdown(Duration::from_secs(5))?;
        println!("ended");
        Ok::<_, rloop::embed::ShutdownError>(())
    })
    .await??;
    Ok(())
}
