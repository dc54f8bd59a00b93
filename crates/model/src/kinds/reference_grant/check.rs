//! What a ReferenceGrant must be (Gateway API v1.6: the rules of the CRD), beyond its schema.

use crate::kinds::route::check::{check_group_and_kind, check_object_name};
use crate::validate::field::{Errors, Field};

pub(super) fn check(grant: &Field<'_>, errors: &mut Errors) {
    let Some(spec) = grant.get("spec") else { return };
    for from in spec.items("from") {
        check_group_and_kind(&from, errors);
        check_object_name(&from, errors);
    }
    for to in spec.items("to") {
        check_group_and_kind(&to, errors);
    }
}
