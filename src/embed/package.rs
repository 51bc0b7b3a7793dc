//! The package `rloop` in a hosted interpreter, without a wheel: its Python files are part of this crate.

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::exit::end_at_exit;

/// The modules of python/rloop. `tests/project/test_layering.py` checks that none is missing.
macro_rules! sources {
    ($($module:literal: $file:literal),* $(,)?) => {
        &[$(($module, $file, include_str!(concat!("../../python/rloop/", $file)))),*]
    };
}

/// Each module of the package: its name, the name of its file, and the text of the file.
const SOURCES: &[(&str, &str, &str)] = sources! {
    "rloop": "__init__.py",
    "rloop.__main__": "__main__.py",
    "rloop._base": "_base.py",
    "rloop._default_executor": "_default_executor.py",
    "rloop._doctor": "_doctor.py",
    "rloop._dump": "_dump.py",
    "rloop._dump_on": "_dump_on.py",
    "rloop._executors": "_executors.py",
    "rloop._getaddrinfo": "_getaddrinfo.py",
    "rloop._launch": "_launch.py",
    "rloop._loop": "_loop.py",
    "rloop._inside": "_inside.py",
    "rloop._metrics": "_metrics.py",
    "rloop._openmetrics": "_openmetrics.py",
    "rloop._pipes": "_pipes.py",
    "rloop._policy": "_policy.py",
    "rloop._processes": "_processes.py",
    "rloop._publish": "_publish.py",
    "rloop._published": "_published.py",
    "rloop._report": "_report.py",
    "rloop._signals": "_signals.py",
    "rloop._sockets": "_sockets.py",
    "rloop._tls": "_tls.py",
    "rloop._stacks": "_stacks.py",
    "rloop._switch": "_switch.py",
    "rloop._top": "_top.py",
    "rloop._top_rows": "_top_rows.py",
    "rloop._top_screen": "_top_screen.py",
    "rloop._transports": "_transports.py",
    "rloop._unix": "_unix.py",
    "rloop._watch": "_watch.py",
};

static INSTALLED: PyOnceLock<()> = PyOnceLock::new();

/// Makes `import rloop` find the loop that is part of this program, ahead of any wheel that is installed as well.
///
/// [`LoopThread::start`](super::LoopThread::start) and [`run`](super::run()) do it by themselves. Call it where Python
/// code is the first to import rloop. Later calls do nothing.
///
/// # Errors
/// ImportError when rloop was imported from elsewhere before: two versions would be mixed.
///
/// ```
/// use pyo3::prelude::*;
///
/// Python::initialize();
/// Python::attach(|py| {
///     rloop::embed::install(py)?;
///     py.run(c"import rloop; assert rloop.__spec__.origin.startswith('<rloop in ')", None, None)
/// })
/// # .unwrap();
/// ```
pub fn install(py: Python<'_>) -> PyResult<()> {
    INSTALLED.get_or_try_init(py, || install_once(py)).map(|_| ())
}

/// Makes the extension module, and gives the importer the package's Python files. ImportError if a package `rloop` was
/// imported before, because the process would have two.
fn install_once(py: Python<'_>) -> PyResult<()> {
    // Before CPython 3.13 the thread that first imports `threading` counts as the main one.
    py.import("threading")?;
    let sys = py.import("sys")?;
    if sys.getattr("modules")?.contains("rloop")? {
        return Err(PyImportError::new_err(
            "rloop was imported from elsewhere before rloop::embed::install() was called",
        ));
    }
    // The same as `wrap_pymodule!`, which would panic if this failed.
    let native = crate::_rloop::_PYO3_DEF.make_module(py)?;
    native.bind(py).setattr("__name__", "rloop._rloop")?;
    let sources = PyDict::new(py);
    for (module, file, text) in SOURCES {
        sources.set_item(module, (file, text))?;
    }
    let executable =
        std::env::current_exe().map_or_else(|_| "?".to_owned(), |path| path.display().to_string());
    let importer = PyModule::from_code(py, IMPORTER, c"<rloop::embed>/importer.py", c"rloop_importer")?;
    py.import("sys")?.getattr("modules")?.del_item("rloop_importer")?;
    importer.call_method1("install", (sources, native, executable))?;
    end_at_exit(py)
}

const IMPORTER: &std::ffi::CStr =
    match std::ffi::CStr::from_bytes_with_nul(concat!(include_str!("importer.py"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
