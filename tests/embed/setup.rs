//! The package in a hosted interpreter.

use pyo3::prelude::*;

use super::*;

fn run(source: &str) {
    Python::initialize();
    let source = std::ffi::CString::new(source).unwrap();
    Python::attach(|py| {
        rloop::embed::install(py).unwrap();
        py.run(&source, None, None).map_err(|error| error.display(py)).unwrap();
    });
}

#[test]
fn the_package_is_importable_and_says_where_it_is_from() {
    run("
import importlib, inspect, linecache, sys
import rloop, rloop._loop, rloop._rloop
assert rloop.Loop is rloop._loop.Loop
assert rloop.__version__ == rloop._rloop.__version__
assert rloop._rloop.__name__ == rloop._rloop.__spec__.name == 'rloop._rloop'
assert rloop._loop.__spec__.origin.startswith('<rloop in /') and rloop._loop.__spec__.origin.endswith('>/_loop.py')
assert rloop.__file__ == rloop.__spec__.origin and rloop.__file__.endswith('>/__init__.py')
assert not hasattr(rloop._rloop, '__file__')
assert rloop.__path__ == [] and rloop.__package__ == 'rloop'
assert 'def run_forever(' in inspect.getsource(rloop.Loop.run_forever)
try:
    import rloop.nothing
except ModuleNotFoundError as exc:
    assert exc.name == 'rloop.nothing'
else:
    raise AssertionError
");
}

#[test]
fn tracebacks_show_the_lines_of_the_package() {
    run("
import asyncio, rloop, traceback
loop = rloop.new_event_loop()
loop.close()
try:
    loop.run_forever()
except RuntimeError as exc:
    text = ''.join(traceback.format_exception(exc))
assert '_loop.py' in text and 'self._check_closed()' in text, text
");
}

#[test]
fn a_wheel_that_is_installed_as_well_is_not_seen() {
    let folder = std::env::temp_dir().join(format!("rloop-embed-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("rloop")).unwrap();
    std::fs::write(folder.join("rloop/__init__.py"), "raise AssertionError('the wheel')").unwrap();
    std::fs::write(folder.join("rloop/other.py"), "").unwrap();
    run(&format!(
        "
import sys
sys.path.insert(0, {folder:?})
import rloop
try:
    import rloop.other
except ModuleNotFoundError:
    pass
else:
    raise AssertionError
sys.path.remove({folder:?})
"
    ));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn run_runs_on_the_current_thread() {
    let main = function(
        "
import asyncio, rloop, threading
async def main(ident):
    assert type(asyncio.get_running_loop()) is rloop.Loop
    assert threading.get_ident() == ident
    await asyncio.sleep(0.001)
    return 'done'
",
        "main",
    );
    let result = Python::attach(|py| {
        let ident = py.import("threading").unwrap().call_method0("get_ident").unwrap();
        let mut kept = None;
        let result = rloop::embed::run(py, |handle| {
            kept = Some(handle.clone());
            main.bind(py).call1((ident,))
        });
        assert!(kept.unwrap().is_closed());
        result.unwrap().extract::<String>(py).unwrap()
    });
    assert_eq!(result, "done");
}

#[test]
fn run_raises_what_the_coroutine_raises() {
    let main = function("async def main(): raise KeyError('x')", "main");
    Python::attach(|py| {
        let error = rloop::embed::run(py, |_| main.bind(py).call0()).unwrap_err();
        assert_eq!(error.to_string(), "KeyError: 'x'");
    });
}
