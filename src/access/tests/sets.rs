//! One set: what it decides, and what it refuses to be.

use super::*;

fn why(set: &Policies, who: &str, id: &str) -> Why {
    set.explain(&caller(who), &read(id).question())
}

fn reason(id: &str, line: usize) -> Vec<Reason> {
    vec![Reason { id: id.to_owned(), file: "test.cedar".to_owned(), line }]
}

#[test]
fn nothing_is_permitted_that_no_policy_permits() {
    let nothing = policies("@id(\"a\")\npermit (principal, action == Action::\"CancelJob\", resource);");
    let everything = policies(EVERYTHING);
    for question in questions() {
        assert_eq!(everything.decide(&caller("ann"), &question), Ok(true), "{question:?}");
        let wanted = Ok(question.action() == Action::CancelJob);
        assert_eq!(nothing.decide(&caller("ann"), &question), wanted, "{question:?}");
    }
    assert_eq!(why(&nothing, "ann", "x"), Why::NothingPermits);
    assert_eq!(why(&everything, "ann", "x"), Why::Permitted(reason("everything", 1)));
}

#[test]
fn a_caller_that_is_not_listed_may_do_nothing_whatever_a_policy_says() {
    let everything = policies(EVERYTHING);
    for question in questions() {
        for nobody in ["eve", "", "Ann", "ann ", "team", "Caller::\"ann\""] {
            assert_eq!(everything.decide(&caller(nobody), &question), Ok(false), "{nobody:?}: {question:?}");
        }
    }
    assert_eq!(why(&everything, "eve", "x"), Why::UnknownCaller);
}

#[test]
fn a_forbid_wins_over_a_permit() {
    let forbid = "@id(\"not\")\nforbid (principal in Team::\"team\", action, resource);\n";
    let set = policies(&format!("{EVERYTHING}\n\n{forbid}"));
    assert_eq!(why(&set, "ann", "x"), Why::Forbidden(reason("not", 5)));
    assert_eq!(why(&set, "bob", "x"), Why::Permitted(reason("everything", 1)));
}

#[test]
fn a_policy_that_fails_permits_nothing_even_if_another_does() {
    // Cedar itself would leave the forbid out, and permit.
    let fails = "@id(\"fails\")\nforbid (principal, action == Action::\"DecryptAccess\", resource)\n\
                 when { context.credential_id == \"a\" && 9223372036854775807 + 1 < 0 };";
    let set = policies(&format!("{EVERYTHING}{fails}"));
    assert_eq!(set.decide(&caller("ann"), &read("b").question()), Ok(true), "what it does not fail for");
    assert!(set.decide(&caller("ann"), &read("a").question()).is_err());
    let Why::Failed(fault) = why(&set, "ann", "a") else { panic!("it decides") };
    assert!(fault.contains("fails") && fault.contains("overflow"), "{fault}");
    assert!(Access::of(set).permit(&caller("ann"), read("a")).is_err());
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    let good = "@id(\"good\")\npermit (principal, action, resource);\n";
    for (policies, wanted) in [
        ("permit (principal, action, resource)", "test.cedar:3: unexpected end of input"),
        ("permit (principal, action, resource);", "test.cedar:3: the policy has no @id"),
        ("@id(\"\")\npermit (principal, action, resource);", "test.cedar:3: the policy has no @id"),
        (
            "@id(\"good\")\npermit (principal, action, resource);",
            "test.cedar:3: @id(\"good\") is taken by test.cedar:1",
        ),
        ("@id(\"x\")\npermit (principal == ?principal, action, resource);", "test.cedar: has a template"),
        (
            "@id(\"x\")\n\npermit (principal,\n  action == Action::\"DecryptAcess\", resource);",
            "test.cedar:6: for policy `x`, unrecognized action `Action::\"DecryptAcess\"`: did you mean `Action::\"DecryptAccess\"`?",
        ),
        (
            "@id(\"x\")\npermit (principal == User::\"ann\", action, resource);",
            "test.cedar:4: for policy `x`, unrecognized entity type `User`",
        ),
        (
            "@id(\"x\")\npermit (principal, action == Action::\"GetCredential\", resource)\nwhen { context.credential == \"\" };",
            "test.cedar:5: for policy `x`, attribute `credential` in context for Action::\"GetCredential\" not found",
        ),
        (
            "@id(\"x\")\npermit (principal, action, resource)\nwhen { context.credential_id == \"\" };",
            "test.cedar:5: for policy `x`, attribute `credential_id` in context for",
        ),
        (
            "@id(\"x\")\npermit (principal, action, resource == AllCustomers::\"all\");",
            "test.cedar:4: for policy `x`: entity `AllCustomers::\"all\"` is of an enumerated entity type",
        ),
        (
            "@id(\"x\")\nforbid (principal in Team::\"taem\", action, resource);",
            "test.cedar:3: for policy `x`, entities.json does not list Team::\"taem\"",
        ),
        (
            "@id(\"x\")\nforbid (principal, action, resource) when { principal == Caller::\"amn\" };",
            "test.cedar:3: for policy `x`, entities.json does not list Caller::\"amn\"",
        ),
    ] {
        let texts = texts(&format!("{good}{policies}"));
        let PolicyError(problems) = Policies::parse(&texts).err().unwrap_or_else(|| panic!("{policies} is taken"));
        let [problem] = problems.as_slice() else { panic!("{policies}: {problems:#?}") };
        assert!(problem.to_string().starts_with(wanted), "{policies}: {problem}");
    }
    let several =
        texts("permit (principal, action, resource);\n@id(\"x\") permit (principal in Team::\"x\", action, resource);");
    let told = Policies::parse(&several).err().unwrap().to_string();
    assert!(told.contains("test.cedar:1: ") && told.contains("; test.cedar:2: "), "{told}");
}

#[test]
fn a_broken_schema_or_entities_file_is_refused_with_its_place() {
    type Edit = fn(&mut Texts);
    let edits: [(Edit, &str); 12] = [
        (
            |texts| texts.schema.content = "entity Caller\n\nentity".to_owned(),
            "triseal.cedarschema:3: error parsing schema",
        ),
        (|texts| texts.schema.content.clear(), "triseal.cedarschema: is not this release's"),
        (
            |texts| texts.schema.content = SCHEMA_TEXT.replace("  DecryptFull,\n", ""),
            "triseal.cedarschema: is not this release's, which stands in its deploy/policy: DecryptFull: ",
        ),
        (
            |texts| texts.schema.content = SCHEMA_TEXT.replace("    kind: String,\n", ""),
            "triseal.cedarschema: is not this release's, which stands in its deploy/policy: EncryptCredential: ",
        ),
        (
            |texts| texts.schema.content = SCHEMA_TEXT.replace("[Customer, AllCustomers]", "Customer"),
            "triseal.cedarschema: is not this release's, which stands in its deploy/policy: ListCredentials: ",
        ),
        (|texts| texts.entities.content.clear(), "entities.json: "),
        (|texts| texts.entities.content = "{}".to_owned(), "entities.json: "),
        (|texts| texts.entities.content = ENTITIES_TEXT.replace("\"Team\"", "\"Group\""), "entities.json: "),
        (
            |texts| texts.entities.content = ENTITIES_TEXT.replace("\"attrs\": {}", "\"attrs\": {\"a\": 1}"),
            "entities.json: ",
        ),
        (|texts| texts.entities.content = ENTITIES_TEXT.replace("\"attrs\": {},", ""), "entities.json: "),
        (|texts| texts.entities.content = ENTITIES_TEXT.replace("Team", "AllCustomers"), "entities.json: "),
        (
            |texts| {
                let many = (0..10_001).map(|number| {
                    format!(
                        "{{\"uid\": {{\"type\": \"Caller\", \"id\": \"{number}\"}}, \"attrs\": {{}}, \"parents\": []}}"
                    )
                });
                texts.entities.content = format!("[{}]", many.collect::<Vec<_>>().join(","));
            },
            "entities.json: lists more than 10000 callers and teams",
        ),
    ];
    for (edit, wanted) in edits {
        let mut texts = texts(EVERYTHING);
        Policies::parse(&texts).unwrap();
        edit(&mut texts);
        let told = Policies::parse(&texts).err().unwrap_or_else(|| panic!("{wanted}: it is taken")).to_string();
        assert!(told.starts_with(wanted), "{told}");
    }
}

#[test]
fn the_number_of_policies_is_bounded() {
    let many = |number| (0..number).map(|id| format!("@id(\"{id}\") permit (principal, action, resource);\n"));
    assert_eq!(policies(&many(250).collect::<String>()).counts(), (250, 2));
    let told = Policies::parse(&texts(&many(251).collect::<String>())).err().unwrap().to_string();
    assert_eq!(told, "test.cedar:251: there are more than 250 policies");
}

#[test]
fn a_newer_releases_schema_is_taken_and_its_further_actions_are_noted() {
    let mut texts = texts(EVERYTHING);
    let further =
        "\naction Future in [Action::\"Group\"] appliesTo { principal: Caller, resource: Customer };\naction Group;\n";
    texts.schema.content.push_str(further);
    let contents = Policies::parse(&texts).unwrap().contents();
    let notes: Vec<_> = contents.notes.iter().map(ToString::to_string).collect();
    let wanted = "triseal.cedarschema: this release has no Action::\"Future\": nothing is ever asked of it";
    assert_eq!(notes, [wanted]);
}

#[test]
fn a_policy_that_can_never_hold_is_noted() {
    let never = "@id(\"x\")\npermit (principal, action == Action::\"ListJobs\", resource == Customer::\"acme\");";
    let set = policies(&format!("{EVERYTHING}{never}"));
    let notes: Vec<_> = set.contents().notes.iter().map(ToString::to_string).collect();
    assert!(matches!(notes.as_slice(), [note] if note.starts_with("test.cedar:") && note.contains("`x`")), "{notes:?}");
}

#[test]
fn what_stands_in_a_set_can_be_shown() {
    let mut texts = texts(EVERYTHING);
    texts.policies.push(text("a.cedar", &format!("{ANN_READS_HERS}@id(\"b\") forbid (principal, action, resource);")));
    let wanted = Contents {
        files: vec![("a.cedar".to_owned(), 2), ("test.cedar".to_owned(), 1)],
        teams: vec![("team".to_owned(), vec!["ann".to_owned()])],
        teamless: vec!["bob".to_owned()],
        notes: Vec::new(),
    };
    assert_eq!(Policies::parse(&texts).unwrap().contents(), wanted);
}
