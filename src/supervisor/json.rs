//! A JSON value as the status needs it: no fractions, and members in the order in which they are put. serde_json's own
//! has both and a tree for each object, which is 25 KB of a small library.

use serde_core::ser::{Serialize, SerializeMap, Serializer};

/// One value.
pub(super) enum Json {
    Null,
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Object),
}

/// The members of an object.
#[derive(Default)]
pub(super) struct Object(Vec<(&'static str, Json)>);

impl Object {
    /// One more, which comes last.
    pub fn put(&mut self, key: &'static str, value: impl Into<Json>) {
        self.push(key, value.into());
    }

    #[inline(never)]
    fn push(&mut self, key: &'static str, value: Json) {
        self.0.push((key, value));
    }

    /// As one line.
    pub fn line(&self) -> String {
        // It fails for keys that are no text and for a writer that fails; there is neither.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Flag(flag) => serializer.serialize_bool(*flag),
            Json::Number(number) => serializer.serialize_u64(*number),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(list) => serializer.collect_seq(list),
            Json::Object(object) => object.serialize(serializer),
        }
    }
}

impl From<bool> for Json {
    fn from(flag: bool) -> Json {
        Json::Flag(flag)
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Json {
        Json::Number(number)
    }
}

impl From<u32> for Json {
    fn from(number: u32) -> Json {
        Json::Number(number.into())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Json {
        Json::Text(text)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Text(text.into())
    }
}

impl From<Vec<Json>> for Json {
    fn from(list: Vec<Json>) -> Json {
        Json::List(list)
    }
}

impl From<Object> for Json {
    fn from(object: Object) -> Json {
        Json::Object(object)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, T::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_as_serde_jsons_own_would_be() {
        let mut inner = Object::default();
        inner.put("nothing", None::<u64>);
        inner.put("text", "\"\\\u{0}\u{1f}\u{7f}\n\t/<ä🦀");
        let mut object = Object::default();
        object.put("flag", true);
        object.put("list", vec![Json::from(u64::MAX), inner.into(), Object::default().into()]);
        let expected = serde_json::json!({
            "flag": true,
            "list": [u64::MAX, { "nothing": null, "text": "\"\\\u{0}\u{1f}\u{7f}\n\t/<ä🦀" }, {}],
        });
        assert_eq!(object.line(), expected.to_string());
    }
}
