//! `_rloop._faults`: how the laboratory makes system calls fail. It exists only with the feature `faults`, which no wheel
//! has. What a schedule does is in `reactor/sys/faults.rs`; here its rules are read from Python.
//!
//! - `set(rules)`: each rule is (call, first, times, what, number). `what` is "errno", "after" or "short", and the
//!   number is the errno, or how many bytes. Counting begins at 0.
//! - `counts()`: {call: (made, failed)} since then. `clear()` ends the schedule.
//! - `calls()`: the names of all calls.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::reactor::sys::faults::{self, Fault, Rule};
use crate::reactor::sys::{Call, datagrams};

/// A rule as Python gives it.
type Given = (String, u64, u64, String, i64);

/// Adds `_faults` to the extension module.
pub fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    faults::check_modes().map_err(|name| PyValueError::new_err(format!("RLOOP_FAULTS: no mode {name:?}")))?;
    let faults = PyModule::new(module.py(), "_faults")?;
    faults.add_function(wrap_pyfunction!(set, &faults)?)?;
    faults.add_function(wrap_pyfunction!(clear, &faults)?)?;
    faults.add_function(wrap_pyfunction!(counts, &faults)?)?;
    faults.add_function(wrap_pyfunction!(calls, &faults)?)?;
    module.add_submodule(&faults)
}

#[pyfunction]
fn set(rules: Vec<Given>) -> PyResult<()> {
    faults::set(rules.into_iter().map(rule).collect::<PyResult<_>>()?);
    Ok(())
}

fn rule((call, first, times, what, number): Given) -> PyResult<Rule> {
    let wrong = || PyValueError::new_err(format!("no rule: {call} {what} {number}"));
    let named = Call::ALL.iter().copied().find(|known| format!("{known:?}") == call);
    let errno = || i32::try_from(number).map_err(|_| wrong());
    let fault = match what.as_str() {
        "errno" => Fault::Errno(errno()?),
        "after" => Fault::After(errno()?),
        "short" => Fault::Short(usize::try_from(number).map_err(|_| wrong())?),
        _ => return Err(wrong()),
    };
    Ok(Rule { call: named.ok_or_else(wrong)?, first, times, fault })
}

#[pyfunction]
fn clear() {
    faults::clear();
    datagrams::forget_refusals();
}

#[pyfunction]
fn counts(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let found = PyDict::new(py);
    for (call, count) in faults::counts() {
        found.set_item(format!("{call:?}"), (count.made, count.failed))?;
    }
    Ok(found)
}

#[pyfunction]
fn calls() -> Vec<String> {
    Call::ALL.iter().map(|call| format!("{call:?}")).collect()
}
