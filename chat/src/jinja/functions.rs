//! The functions that `transformers` gives every template.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;

use super::args::{CallArgs, needed_str};
use super::error::{Error, Result};
use super::eval::Run;
use super::value::{Callable, Dict, Value, ViewKind};

pub const NAMES: [&str; 7] = ["range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"];

/// The longest range of jinja's sandbox.
const MAX_RANGE: i128 = 100_000;

pub fn call(run: &mut Run, name: &str, args: CallArgs) -> Result<Value> {
    match name {
        "range" => range(run, args),
        "dict" => Ok(Value::Dict(Rc::new(dict(run, name, args)?))),
        "namespace" => {
            let attributes = dict(run, name, args)?;
            if let Some((key, _)) = attributes.pairs.iter().find(|(key, _)| key.to_text().starts_with('_')) {
                let key = key.to_text();
                return Err(Error::new(format!("`{key}`: names in a namespace cannot begin with `_`")));
            }
            Ok(Value::Namespace(Rc::new(RefCell::new(attributes))))
        }
        "cycler" => match args.unnamed(name)? {
            items if items.is_empty() => Err(Error::new("a cycler needs items")),
            items => Ok(Value::callable(Callable::Cycler(items, Cell::new(0)))),
        },
        "joiner" => {
            let [separator] = args.bind(name, ["sep"])?;
            Ok(Value::callable(Callable::Joiner(separator.unwrap_or_else(|| ", ".into()), Cell::new(false))))
        }
        "raise_exception" => {
            let [message] = args.bind(name, ["message"])?;
            Err(Error::raised(&*run.text(&message.unwrap_or(Value::None))?))
        }
        "strftime_now" => {
            let [format] = args.bind(name, ["format"])?;
            let format = needed_str(format, name)?;
            let mut text = String::new();
            match write!(text, "{}", (run.now)().format(&format)) {
                Ok(()) => Ok(text.into()),
                Err(_) => Err(Error::new(format!("`{format}` is not a format of a time"))),
            }
        }
        _ => Err(Error::new(format!("`{name}` is undefined"))),
    }
}

fn range(run: &mut Run, args: CallArgs) -> Result<Value> {
    let args = args.unnamed("range")?;
    let numbers: Option<Vec<i128>> = args.iter().map(Value::as_int).collect();
    let (from, to, step) = match numbers.as_deref() {
        Some([to]) => (0, *to, 1),
        Some([from, to]) => (*from, *to, 1),
        Some([from, to, step]) => (*from, *to, *step),
        _ => return Err(Error::new("`range` needs one to three whole numbers")),
    };
    let length = match step {
        0 => return Err(Error::new("`range` cannot have the step 0")),
        1.. => to.saturating_sub(from).max(0).saturating_add(step - 1) / step,
        _ => from.saturating_sub(to).max(0).saturating_add(-step - 1) / -step,
    };
    if length > MAX_RANGE {
        return Err(Error::new(format!("a range has at most {MAX_RANGE} items")));
    }
    run.spend(usize::try_from(length).unwrap_or(0) * 16)?;
    let items = (0..length).map(|at| Value::Int(from + at * step)).collect();
    let call = if step == 1 { format!("range({from}, {to})") } else { format!("range({from}, {to}, {step})") };
    Ok(Value::view(items, ViewKind::Range(call)))
}

/// `dict(mapping or pairs, **named)`.
fn dict(run: &mut Run, function: &str, args: CallArgs) -> Result<Dict> {
    let mut dict = Dict::default();
    if args.positional.len() > 1 {
        return Err(Error::new(format!("`{function}` takes at most 1 argument")));
    }
    match args.positional.first() {
        None => {}
        Some(Value::Dict(given)) => {
            run.spend(given.pairs.len() * 16)?;
            dict = (**given).clone();
        }
        Some(pairs) => {
            for pair in pairs.items()? {
                let [key, value] = <[Value; 2]>::try_from(pair.items()?)
                    .map_err(|_| Error::new(format!("`{function}` needs pairs")))?;
                run.insert(&mut dict, key, value)?;
            }
        }
    }
    for (name, value) in args.named {
        run.insert(&mut dict, name.as_str().into(), value)?;
    }
    Ok(dict)
}
