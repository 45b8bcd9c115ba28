//! The page as HTML.

use std::fmt::Write as _;

use minijinja::{Environment, context};
use sha2::{Digest, Sha256};

use super::collect::Collected;
use super::samples::Samples;
use super::sections;
use crate::table::count;

const TEMPLATE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// The whole file.
pub fn page(title: &str, collected: &Collected, samples: &Samples) -> String {
    let mut environment = Environment::new();
    // The name ends in `.html`, so that everything is escaped that is not marked as markup.
    environment.add_template("report.html", TEMPLATE).expect("the template is valid");
    let template = environment.get_template("report.html").expect("it has just been added");
    let page = template.render(context! {
        title,
        policy => policy(),
        style => STYLE,
        script => SCRIPT,
        version => env!("CARGO_PKG_VERSION"),
        sections => sections::all(collected),
        lineage => sections::lineage::section(collected),
        samples => (!samples.rows.is_empty()).then(|| samples.to_json()),
        prompts => count(samples.rows.len(), "prompt"),
        left_out => samples.not_here(),
        tasks => samples.words(|row| vec![row.task]),
        models => samples.words(|row| row.answers.iter().map(|answer| answer.model.as_str()).collect()),
        verdicts => samples.words(|row| row.answers.iter().map(|answer| answer.verdict).collect()),
        types => samples.words(|row| row.types.iter().map(String::as_str).collect()),
    });
    page.expect("the template takes what it is given")
}

/// What the page may do: run this script, use this style, and ask for nothing.
fn policy() -> String {
    let hash = |text: &str| base64(&Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().chain([&0, &0]).take(3).fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        for digit in 0..4 {
            let index = bits >> (18 - 6 * digit) & 63;
            let letter = if digit <= three.len() { char::from(ALPHABET[index as usize]) } else { '=' };
            let _ = write!(text, "{letter}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648, section 10.
        let encoded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn style_and_script_stand_in_the_page_as_they_were_hashed() {
        let page = page("a <title>", &Collected::default(), &Samples::default());
        assert!(page.contains(&format!("<style>{STYLE}</style>")));
        assert!(page.contains(&format!("<script>{SCRIPT}</script>")));
        assert!(page.contains("<title>a &lt;title&gt;</title>"), "{}", &page[..300]);
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</"), "neither may end its element");
        assert!(!STYLE.contains("url(") && !page.contains("http://") && !page.contains("https://"));
    }
}
