//! How wide text becomes in fonts nobody has asked for yet.

use super::layout::Px;

/// What a piece of text is for, from which its looks follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Title,
    Subtitle,
    Heading,
    Name,
    Struck,
    Address,
    Size,
    Aside,
    Reason,
    Limit,
    Binding,
    Gap,
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Style {
    pub const ALL: [Self; 13] = [
        Self::Title,
        Self::Subtitle,
        Self::Heading,
        Self::Name,
        Self::Struck,
        Self::Address,
        Self::Size,
        Self::Aside,
        Self::Reason,
        Self::Limit,
        Self::Binding,
        Self::Gap,
        Self::Tick,
    ];

    pub fn class(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Subtitle => "subtitle",
            Self::Heading => "heading",
            Self::Name => "name",
            Self::Struck => "struck",
            Self::Address => "address",
            Self::Size => "size",
            Self::Aside => "aside",
            Self::Reason => "reason",
            Self::Limit => "limit",
            Self::Binding => "binding",
            Self::Gap => "gap",
            Self::Tick => "tick",
        }
    }

    pub fn font_size(self) -> Px {
        match self {
            Self::Title => 20,
            Self::Subtitle | Self::Heading => 14,
            Self::Name | Self::Struck | Self::Address | Self::Size => 13,
            Self::Aside | Self::Reason | Self::Limit | Self::Binding | Self::Gap | Self::Tick => 12,
        }
    }

    pub fn line_height(self) -> Px {
        self.font_size() * 4 / 3 + 1
    }

    pub fn is_bold(self) -> bool {
        matches!(self, Self::Title | Self::Heading | Self::Name | Self::Struck | Self::Binding)
    }

    pub fn is_mono(self) -> bool {
        self == Self::Address
    }

    pub fn anchor(self) -> Anchor {
        match self {
            Self::Size | Self::Tick => Anchor::End,
            Self::Gap => Anchor::Middle,
            _ => Anchor::Start,
        }
    }

    /// At least what `text` takes.
    pub fn width(self, text: &str) -> Px {
        let thousandths: u64 = text.chars().map(|letter| self.thousandths(letter)).sum();
        (thousandths * self.font_size()).div_ceil(1000)
    }

    // Of an em. DejaVu is the widest of the fonts the picture asks for, so these are DejaVu's.
    fn thousandths(self, letter: char) -> u64 {
        if self.is_mono() {
            return if letter.is_ascii() { 605 } else { 1210 };
        }
        let regular = match letter {
            'i' | 'j' | 'l' | 'I' | '\'' => 310,
            ' ' | '.' | ',' | ':' | ';' | '|' | '/' | '\\' => 340,
            'f' | 'r' | 't' | '(' | ')' | '[' | ']' | '-' | '!' => 440,
            'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 1000,
            '0'..='9' | 'a'..='z' => 640,
            'A'..='Z' => 790,
            '!'..='~' => 840,
            _ => 1100,
        };
        if self.is_bold() { regular * 113 / 100 } else { regular }
    }

    /// As much of `text` as has room.
    pub fn shortened(self, text: &str, room: Px) -> String {
        if self.width(text) <= room {
            return text.to_owned();
        }
        let room = room.saturating_sub(self.width("…")) * 1000;
        let mut used = 0;
        let kept: String = text
            .chars()
            .take_while(|letter| {
                used += self.thousandths(*letter) * self.font_size();
                used <= room
            })
            .collect();
        format!("{}…", kept.trim_end())
    }

    /// `text` in lines, at most `most` of them; what has no room in those is left out.
    pub fn wrapped(self, text: &str, room: Px, most: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            let joined = lines.last().map(|line| format!("{line} {word}"));
            let full = lines.len() == most;
            match (joined, lines.last_mut()) {
                (Some(joined), Some(line)) if full || self.width(&joined) <= room => *line = joined,
                _ => lines.push(word.to_owned()),
            }
            if full && lines.last().is_some_and(|line| self.width(line) > room) {
                break;
            }
        }
        lines.iter().map(|line| self.shortened(line, room)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words_and_the_rest_left_out() {
        let room = Style::Reason.width("as many words as");

        let lines = Style::Reason.wrapped("as many words as fit in lines of this width", room, 2);

        assert_eq!(lines, ["as many words as", "fit in lines of thi…"]);
    }

    #[test]
    fn shortened_text_has_room() {
        for room in 20..200 {
            let text = Style::Name.shortened("WWWWiiii a rather-long.name_of_a_disk …", room);

            assert!(Style::Name.width(&text) <= room, "{text} in {room}");
        }
    }
}
