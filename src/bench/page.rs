//! A page of plots: one file, whole in itself.

use super::record::Run;

/// One page of all `runs`, side by side.
pub(super) fn render(runs: &[Run]) -> String {
    let data = serde_json::to_string(runs).expect("numbers and texts always have a JSON form");
    // Within a script element nothing but its end tag, and what could begin a comment, is special.
    let data = data.replace('<', "\\u003c");
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + SCRIPT.len() + data.len());
    for (at, piece) in PAGE.split("<!---->").enumerate() {
        page.push_str(piece);
        match at {
            0 => page.push_str(STYLE),
            1 => page.push_str(&data),
            2 => page.push_str(SCRIPT),
            _ => {}
        }
    }
    page
}

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
