//! jinja's tests: `value is name`.

use super::args::CallArgs;
use super::ast::Comparison;
use super::error::{Error, Result};
use super::eval::Run;
use super::python::is_cased;
use super::value::{Value, ViewKind};
use super::{filters, operators};

const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

pub fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

pub fn check(run: &mut Run, name: &str, value: &Value, args: CallArgs) -> Result<bool> {
    run.spend(0)?;
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Eq),
        "!=" | "ne" => Some(Comparison::Ne),
        "<" | "lt" | "lessthan" => Some(Comparison::Lt),
        "<=" | "le" => Some(Comparison::Le),
        ">" | "gt" | "greaterthan" => Some(Comparison::Gt),
        ">=" | "ge" => Some(Comparison::Ge),
        "in" => Some(Comparison::In),
        _ => None,
    };
    let missing = || Error::new(format!("the test `{name}` needs an argument"));
    if let Some(comparison) = comparison {
        let [other] = args.bind(name, ["other"])?;
        return run.compares(comparison, value, &other.ok_or_else(missing)?);
    }
    if name == "divisibleby" || name == "sameas" {
        let [other] = args.bind(name, ["other"])?;
        let other = other.ok_or_else(missing)?;
        if name == "sameas" {
            run.read(value)?;
            return Ok(is_same(value, &other));
        }
        let rest = operators::binary(run, super::ast::Binary::Mod, value, &other)?;
        return Ok(rest.equals(&Value::Int(0)));
    }
    let [] = args.bind(name, [])?;
    if ["lower", "upper", "filter", "test"].contains(&name) {
        run.read(value)?;
    }
    let parity = || match value.as_int() {
        Some(number) => Ok(number.rem_euclid(2)),
        None => Err(Error::new(format!("the test `{name}` needs a whole number"))),
    };
    let cased = |wanted: fn(char) -> bool| {
        let text = value.to_text();
        text.chars().any(is_cased) && text.chars().filter(|c| is_cased(*c)).all(wanted)
    };
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_number().is_some(),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => match value {
            Value::Undefined(_) | Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
            Value::View(view) => matches!(view.kind, ViewKind::Range(_)),
            _ => false,
        },
        "iterable" => match value {
            Value::Undefined(_) | Value::Iter(_) | Value::Loop(_) => true,
            _ => value.len().is_some(),
        },
        "callable" => matches!(value, Value::Undefined(_) | Value::Callable(_) | Value::Loop(_)),
        "escaped" => matches!(value, Value::Str(text) if text.safe),
        "lower" => cased(char::is_lowercase),
        "upper" => cased(char::is_uppercase),
        "even" => parity()? == 0,
        "odd" => parity()? == 1,
        "filter" => filters::is_known(&value.to_text()),
        "test" => is_known(&value.to_text()),
        _ => return Err(Error::new(format!("the test `{name}` is not known"))),
    })
}

/// Python's `is`, for what does not depend on how Python stores it.
fn is_same(a: &Value, b: &Value) -> bool {
    use std::rc::Rc;
    match (a, b) {
        (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        _ => a.type_name() == b.type_name() && a.equals(b),
    }
}
