//! Arithmetic and comparisons, as Python has them.

use std::cmp::Ordering;

use super::ast::{Binary, Comparison};
use super::error::{Error, Result};
use super::eval::Run;
use super::filters::escaped;
use super::format;
use super::value::{Text, Value};

fn symbol(operator: Binary) -> &'static str {
    match operator {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "**",
    }
}

fn too_large() -> Error {
    Error::new("a number becomes too large")
}

pub fn binary(run: &mut Run, operator: Binary, left: &Value, right: &Value) -> Result<Value> {
    if let Value::Undefined(message) = left {
        return Err(Error::new(&**message));
    }
    if let (Binary::Mod, Value::Str(text)) = (operator, left) {
        let args = match right {
            Value::Tuple(tuple) => &tuple.items[..],
            _ => std::slice::from_ref(right),
        };
        return format::percent(run, text, args, Some(right));
    }
    if let Value::Undefined(message) = right {
        return Err(Error::new(&**message));
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return ints(operator, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_number(), right.as_number()) {
        return floats(operator, a, b);
    }
    match (operator, left, right) {
        (Binary::Add, Value::Str(a), Value::Str(b)) => {
            run.spend(a.text.len() + b.text.len())?;
            let safe = a.safe || b.safe;
            let part = |text: &Text| if safe && !text.safe { escaped(&text.text) } else { text.text.to_string() };
            let text = part(a) + &part(b);
            Ok(if safe { Value::safe(text) } else { text.into() })
        }
        (Binary::Add, Value::List(a), Value::List(b)) => {
            run.spend((a.items.len() + b.items.len()) * 16)?;
            Ok(Value::list([&a.items[..], &b.items[..]].concat()))
        }
        (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => {
            run.spend((a.items.len() + b.items.len()) * 16)?;
            Ok(Value::tuple([&a.items[..], &b.items[..]].concat()))
        }
        (Binary::Mul, repeated, times) if times.as_int().is_some() => repeat(run, repeated, times),
        (Binary::Mul, times, repeated) if times.as_int().is_some() => repeat(run, repeated, times),
        _ => Err(unsupported(operator, left, right)),
    }
}

fn unsupported(operator: Binary, left: &Value, right: &Value) -> Error {
    let (left, right) = (left.type_name(), right.type_name());
    Error::new(format!("unsupported operand types for {}: '{left}' and '{right}'", symbol(operator)))
}

fn repeat(run: &mut Run, repeated: &Value, times: &Value) -> Result<Value> {
    let count = usize::try_from(times.as_int().unwrap_or(0).max(0)).map_err(|_| too_large())?;
    let size = match repeated {
        Value::Str(text) => text.text.len(),
        _ => repeated.len().unwrap_or(0) * 16,
    };
    run.spend(size.max(1).saturating_mul(count))?;
    match repeated {
        Value::Str(text) => Ok(Value::Str(Text { text: text.text.repeat(count).into(), safe: text.safe })),
        Value::List(list) => Ok(Value::list(std::iter::repeat_n(&list.items, count).flatten().cloned().collect())),
        Value::Tuple(tuple) => Ok(Value::tuple(std::iter::repeat_n(&tuple.items, count).flatten().cloned().collect())),
        _ => Err(unsupported(Binary::Mul, repeated, times)),
    }
}

fn ints(operator: Binary, a: i128, b: i128) -> Result<Value> {
    if b == 0 && matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Mod) {
        return Err(Error::new("division by zero"));
    }
    let exact = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDiv => a.checked_div_euclid(b).and_then(|quotient| {
            // Euclid's remainder is never negative, Python's has the divisor's sign.
            if b < 0 && a.rem_euclid(b) != 0 { quotient.checked_sub(1) } else { Some(quotient) }
        }),
        Binary::Mod => a.checked_rem_euclid(b).map(|rest| if b < 0 && rest != 0 { rest + b } else { rest }),
        Binary::Pow if b < 0 => return floats(operator, a as f64, b as f64),
        Binary::Pow => u32::try_from(b).ok().and_then(|power| a.checked_pow(power)),
    };
    exact.map(Value::Int).ok_or_else(too_large)
}

fn floats(operator: Binary, a: f64, b: f64) -> Result<Value> {
    if b == 0.0 && matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Mod) {
        return Err(Error::new("division by zero"));
    }
    let modulo = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
    };
    Ok(Value::Float(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::FloorDiv => ((a - modulo()) / b).round(),
        Binary::Mod => modulo(),
        Binary::Pow => a.powf(b),
    }))
}

pub fn negative(value: &Value) -> Result<Value> {
    match (value, value.as_int()) {
        (_, Some(number)) => number.checked_neg().map(Value::Int).ok_or_else(too_large),
        (Value::Float(number), _) => Ok(Value::Float(-number)),
        (Value::Undefined(message), _) => Err(Error::new(&**message)),
        _ => Err(Error::new(format!("bad operand type for -: '{}'", value.type_name()))),
    }
}

pub fn positive(value: Value) -> Result<Value> {
    match (&value, value.as_int()) {
        (_, Some(number)) => Ok(Value::Int(number)),
        (Value::Float(_), _) => Ok(value),
        (Value::Undefined(message), _) => Err(Error::new(&**message)),
        _ => Err(Error::new(format!("bad operand type for +: '{}'", value.type_name()))),
    }
}

pub fn compare(comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
    let ordered = |wanted: fn(Ordering) -> bool| Ok(left.order(right)?.is_some_and(wanted));
    match comparison {
        Comparison::Eq => Ok(left.equals(right)),
        Comparison::Ne => Ok(!left.equals(right)),
        Comparison::Lt => ordered(Ordering::is_lt),
        Comparison::Le => ordered(Ordering::is_le),
        Comparison::Gt => ordered(Ordering::is_gt),
        Comparison::Ge => ordered(Ordering::is_ge),
        Comparison::In => right.contains(left),
        Comparison::NotIn => Ok(!right.contains(left)?),
    }
}
