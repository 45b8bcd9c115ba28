//! Attributes, items and slices, looked up as jinja's sandbox does.

use super::error::{Error, Result};
use super::methods;
use super::value::{Callable, Text, Value, ViewKind};

/// `of.name`: Python's attribute of that name first, then the item.
pub fn attribute(of: &Value, name: &str) -> Result<Value> {
    if let Some(value) = own_attribute(of, name)? {
        return Ok(value);
    }
    Ok(exact_item(of, &Value::from(name)).unwrap_or_else(|| missing(of, name)))
}

/// `of[item]`: the item first, then Python's attribute of that name.
pub fn item(of: &Value, item: &Value) -> Result<Value> {
    if let Value::Undefined(message) = of {
        return Err(Error::new(&**message));
    }
    if let Some(value) = exact_item(of, item) {
        return Ok(value);
    }
    let name = item.to_text();
    let own = if item.as_str().is_some() { own_attribute(of, &name)? } else { None };
    Ok(own.unwrap_or_else(|| missing(of, &name)))
}

fn missing(of: &Value, name: &str) -> Value {
    Value::undefined(format!("`{}` has no `{name}`", of.type_name()))
}

/// The attribute that Python gives every value of the type.
pub fn own_attribute(of: &Value, name: &str) -> Result<Option<Value>> {
    Ok(match of {
        Value::Undefined(message) => return Err(Error::new(&**message)),
        Value::Namespace(attributes) => attributes.borrow().get_str(name).cloned(),
        Value::Tuple(tuple) if tuple.names.contains(&name) => {
            let at = tuple.names.iter().position(|found| *found == name);
            at.map(|at| tuple.items[at].clone())
        }
        Value::Loop(state) => {
            let (at, length) = (state.at.get(), state.items.len());
            let neighbour = |at: Option<usize>, which: &str| {
                at.and_then(|at| state.items.get(at))
                    .cloned()
                    .unwrap_or_else(|| Value::undefined(format!("there is no {which} item")))
            };
            match name {
                "index" => Some(Value::int(at + 1)),
                "index0" => Some(Value::int(at)),
                "revindex" => Some(Value::int(length - at)),
                "revindex0" => Some(Value::int(length - at - 1)),
                "first" => Some(Value::Bool(at == 0)),
                "last" => Some(Value::Bool(at + 1 == length)),
                "length" => Some(Value::int(length)),
                "depth" => Some(Value::int(state.level + 1)),
                "depth0" => Some(Value::int(state.level)),
                "previtem" => Some(neighbour(at.checked_sub(1), "previous")),
                "nextitem" => Some(neighbour(Some(at + 1), "next")),
                _ => method(of, name),
            }
        }
        Value::Callable(callable) => match &**callable {
            Callable::Macro(node, _) if name == "name" => Some(node.name.as_str().into()),
            Callable::Cycler(items, at) if name == "current" => Some(items[at.get()].clone()),
            _ => method(of, name),
        },
        Value::Int(_) | Value::Bool(_) => match name {
            "real" | "numerator" => of.as_int().map(Value::Int),
            "imag" => Some(Value::Int(0)),
            "denominator" => Some(Value::Int(1)),
            _ => method(of, name),
        },
        _ => method(of, name),
    })
}

fn method(of: &Value, name: &str) -> Option<Value> {
    if methods::changes(of, name) {
        let refused = format!("`{name}` would change a {}, which a chat template cannot", of.type_name());
        return Some(Value::undefined(refused));
    }
    methods::exists(of, name).then(|| Value::callable(Callable::Method(of.clone(), name.into())))
}

fn exact_item(of: &Value, item: &Value) -> Option<Value> {
    match of {
        Value::Dict(dict) => dict.get(item).cloned(),
        Value::Str(text) => {
            let at = index(item.as_int()?, of.len()?)?;
            let c = text.text.chars().nth(at)?;
            Some(Value::Str(Text { text: c.to_string().into(), safe: text.safe }))
        }
        _ => {
            let items = of.as_sequence()?;
            items.get(index(item.as_int()?, items.len())?).cloned()
        }
    }
}

/// A position that may count from the end.
fn index(at: i128, length: usize) -> Option<usize> {
    let from_start = if at < 0 { at + i128::try_from(length).ok()? } else { at };
    usize::try_from(from_start).ok().filter(|at| *at < length)
}

/// `of[from:to:step]`.
pub fn slice(of: &Value, [from, to, step]: [Option<i128>; 3]) -> Result<Value> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new("a slice cannot have the step 0"));
    }
    let positions = |length: usize| {
        let length = i128::try_from(length).expect("a usize fits");
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let bound = |bound: Option<i128>, default: i128| match bound {
            Some(bound) if bound < 0 => (bound.saturating_add(length)).clamp(low, high),
            Some(bound) => bound.clamp(low, high),
            None => default,
        };
        let (from, to) =
            if step > 0 { (bound(from, low), bound(to, high)) } else { (bound(from, high), bound(to, low)) };
        let mut positions = Vec::new();
        let mut at = from;
        while if step > 0 { at < to } else { at > to } {
            positions.push(usize::try_from(at).expect("it lies within the length"));
            at = at.saturating_add(step);
        }
        positions
    };
    match of {
        Value::Undefined(message) => Err(Error::new(&**message)),
        Value::Str(text) => {
            let chars: Vec<char> = text.text.chars().collect();
            let sliced: String = positions(chars.len()).into_iter().map(|at| chars[at]).collect();
            Ok(Value::Str(Text { text: sliced.into(), safe: text.safe }))
        }
        _ => {
            let Some(items) = of.as_sequence() else {
                return Ok(missing(of, "[:]"));
            };
            let sliced = positions(items.len()).into_iter().map(|at| items[at].clone()).collect();
            Ok(match of {
                Value::Tuple(_) => Value::tuple(sliced),
                Value::View(_) => range_of(sliced),
                _ => Value::list(sliced),
            })
        }
    }
}

/// A part of a range is a range.
fn range_of(items: Vec<Value>) -> Value {
    let number = |at: usize| items.get(at).and_then(Value::as_int).unwrap_or(0);
    let step = if items.len() > 1 { number(1) - number(0) } else { 1 };
    let (from, to) = match items.len() {
        0 => (0, 0),
        length => (number(0), number(length - 1) + step),
    };
    let call = if step == 1 { format!("range({from}, {to})") } else { format!("range({from}, {to}, {step})") };
    Value::view(items, ViewKind::Range(call))
}
