//! The picture and its table as one page, to be searched in; it needs no network, and a script only to search.

use std::collections::BTreeMap;

use ambit_resources::human_size;

use super::layout::Layout;
use super::{Row, Scene, add, escaped, hex, short_size, svg};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub fn html(scene: &Scene) -> String {
    let rows = scene.rows();
    let layout = Layout::new(scene);
    let title = escaped(&scene.title);
    let picture = svg::drawn(scene, &layout);
    let notes = notes(&scene.notes);
    let search = search(rows.len());
    let table = table(&rows, &layout, scene.digits());
    let mut page = String::new();
    add(
        &mut page,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <div class=\"picture\">\n{picture}{notes}</div>\n\
             <div class=\"list\">\n{search}{table}</div>\n</main>\n\
             <output id=\"details\" aria-live=\"polite\" hidden=\"\"></output>\n\
             <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        ),
    );
    page
}

fn notes(notes: &[String]) -> String {
    let mut text = String::new();
    if !notes.is_empty() {
        text += "<ul class=\"notes\">\n";
        for note in notes {
            add(&mut text, format_args!("<li>{}</li>\n", escaped(note)));
        }
        text += "</ul>\n";
    }
    text
}

// Hidden until the script runs, as without it there is nothing to type for.
fn search(rows: usize) -> String {
    format!(
        "<form id=\"search\" role=\"search\" hidden=\"\">\n<label for=\"words\">Search</label>\n\
         <input id=\"words\" type=\"search\" autocomplete=\"off\" spellcheck=\"false\" \
         placeholder=\"name, kind, interrupt, or any address\"/>\n\
         <span id=\"found\" aria-live=\"polite\">{rows} regions</span>\n</form>\n"
    )
}

fn table(rows: &[Row], layout: &Layout, digits: usize) -> String {
    let mut text = String::from(
        "<table>\n<thead><tr><th>Base</th><th>Last</th><th class=\"right\">Size</th><th>Kind</th>\
         <th>Name</th><th class=\"right\">Interrupt</th><th>Remarks</th></tr></thead>\n<tbody>\n",
    );
    let blocks: BTreeMap<usize, usize> = layout
        .blocks
        .iter()
        .flat_map(|block| block.rows.iter().map(|row| (row.number, block.rows[0].number)))
        .collect();
    for row in rows {
        line(&mut text, row, blocks.get(&row.number).copied().unwrap_or(row.number), digits);
    }
    text + "</tbody>\n</table>\n"
}

fn line(text: &mut String, row: &Row, block: usize, digits: usize) {
    let band = row.band;
    let (first, last) = match band.range {
        Some(_) => (hex(band.first(), digits), hex(band.last(), digits)),
        None => ("dropped".to_owned(), "-".to_owned()),
    };
    // What is plainly placed needs no remark.
    let remark = match (&band.reason, band.fate().remark()) {
        (Some(reason), Some(status)) => format!("{status}: {reason}"),
        (Some(reason), None) => reason.clone(),
        (None, status) => status.unwrap_or_default().to_owned(),
    };
    add(
        text,
        format_args!(
            "<tr id=\"row-{number}\" class=\"{status}\" data-block=\"block-{block}\">\
             <td class=\"address\">{first}</td><td class=\"address\">{last}</td>\
             <td class=\"right\" title=\"{exact}\">{size}</td><td>{kind}</td>\
             <td style=\"padding-left:{indent}em\"><a href=\"#block-{block}\">{name}</a></td>\
             <td class=\"right\">{interrupt}</td><td class=\"remark\">{remark}</td></tr>\n",
            number = row.number,
            status = band.fate().remark().unwrap_or("placed"),
            exact = human_size(band.size),
            size = short_size(band.size),
            kind = escaped(&band.kind_label),
            indent = row.depth.min(8) + 1,
            name = escaped(&band.name),
            interrupt = escaped(band.interrupt.as_deref().unwrap_or("-")),
            remark = escaped(&remark),
        ),
    );
}
