//! What those have said who were asked about a request that has entered a workload, kept for as long as it is there.

use http::HeaderMap;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::external::ExternalEdits;

use crate::budget::Charge;

#[derive(Default)]
pub(crate) struct Answers {
    policies: Vec<NamespacedName>,
    /// What each has done to the request's headers, and to the answer's.
    edits: Vec<(ExternalEdits, ExternalEdits)>,
    /// For what was kept of its body.
    pub held: Option<Charge>,
}

impl Answers {
    pub fn add(&mut self, policy: NamespacedName, request: ExternalEdits, answer: ExternalEdits) {
        self.policies.push(policy);
        self.edits.push((request, answer));
    }

    /// Whose policies have had somebody asked.
    pub fn policies(&self) -> &[NamespacedName] {
        &self.policies
    }

    pub fn changes_headers(&self) -> bool {
        self.edits.iter().any(|(request, _)| !request.is_empty())
    }

    /// Changes the request's.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        self.edits.iter().for_each(|(request, _)| request.apply(headers));
    }

    /// Changes the answer's.
    pub fn write_answer(&self, headers: &mut HeaderMap) {
        self.edits.iter().for_each(|(_, answer)| answer.apply(headers));
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tulle_model::snapshot::external::EditAction;

    use super::*;

    #[test]
    fn each_changes_what_those_before_it_left() {
        let mut answers = Answers::default();
        assert!(!answers.changes_headers());
        let edits = |value: &str, action| {
            let mut edits = ExternalEdits::default();
            edits.push(b"x-a", value.as_bytes(), action).unwrap();
            edits
        };
        let [p, q] = ["p", "q"].map(|name| NamespacedName::new("shop", name));
        answers.add(p.clone(), ExternalEdits::default(), edits("3", EditAction::Append));
        assert!(!answers.changes_headers());
        answers.add(q.clone(), edits("1", EditAction::Set), edits("4", EditAction::Append));
        answers.add(q.clone(), edits("2", EditAction::Append), ExternalEdits::default());
        assert!(answers.changes_headers());
        assert_eq!(answers.policies(), [p, q.clone(), q]);
        let values = |write: fn(&Answers, &mut HeaderMap)| {
            let mut headers = HeaderMap::from_iter([("x-a".parse().unwrap(), HeaderValue::from_static("0"))]);
            write(&answers, &mut headers);
            let all = headers.get_all("x-a").iter().map(|value| value.to_str().unwrap().to_owned());
            all.collect::<Vec<_>>().join(",")
        };
        assert_eq!(
            (values(Answers::write_headers), values(Answers::write_answer)),
            ("1,2".into(), "0,3,4".into())
        );
    }
}
