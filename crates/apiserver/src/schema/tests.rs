use super::*;

#[test]
fn every_type_of_the_table_is_read() {
    assert!(type_names().len() > 250, "{}", type_names().len());
    let pod = Schema::builtin("io.k8s.api.core.v1.Pod").expect("Pod");
    let container = pod.cursor().child("spec").and_then(|c| c.child("containers"));
    assert!(matches!(
        container.map(Cursor::node),
        Some(Node::List { merge: ListMerge::Map(keys), .. }) if **keys == ["name".into()]
    ));
}
