//! Policy sets after the scheme of Kubernetes' own network policy tests: namespaces x, y, z with pods a, b, c, which have the
//! label `pod`; namespaces have `kubernetes.io/metadata.name` and `team`. A name, and the policies as `(namespace, spec)`.

/// All of them.
pub(crate) const SETS: &[(&str, &[(&str, &str)])] = &[
    ("nothing", &[]),
    ("deny all ingress to a namespace", &[("x", "{podSelector: {}, policyTypes: [Ingress]}")]),
    ("deny all egress of a namespace", &[("x", "{podSelector: {}, policyTypes: [Egress]}")]),
    ("deny both", &[("x", "{podSelector: {}, policyTypes: [Ingress, Egress]}")]),
    ("allow all ingress", &[("x", "{podSelector: {}, ingress: [{}]}")]),
    ("allow all egress", &[("x", "{podSelector: {}, policyTypes: [Egress], egress: [{}]}")]),
    (
        "deny everywhere",
        &[
            ("x", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
            ("y", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
            ("z", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
        ],
    ),
    (
        "ingress from pods of the same namespace",
        &[("x", "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}")],
    ),
    (
        "ingress from a pod by label",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
        )],
    ),
    (
        "ingress from a namespace by label",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]}",
        )],
    ),
    (
        "ingress from a namespace by name",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: 'y'}}}]}]}",
        )],
    ),
    (
        "ingress from namespaces by expression",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: ['y', z]}]}}]}]}",
        )],
    ),
    (
        "ingress not from a namespace",
        &[(
            "x",
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x, 'y']}]}}]}]}",
        )],
    ),
    (
        "ingress from pods in namespaces",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: 'y'}}, podSelector: {matchLabels: {pod: b}}}]}]}",
        )],
    ),
    (
        "ingress from pods or namespaces",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: 'y'}}}, {podSelector: {matchLabels: {pod: b}}}]}]}",
        )],
    ),
    (
        "ingress from pods by expressions",
        &[(
            "x",
            "{podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [c]}]}}]}]}",
        )],
    ),
    (
        "ingress from pods with a label that exists",
        &[(
            "x",
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]}",
        )],
    ),
    (
        "ingress from pods without a label",
        &[(
            "x",
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]}",
        )],
    ),
    ("ingress to one port", &[("x", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}")]),
    (
        "ingress to one port of UDP",
        &[("x", "{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 81}]}]}")],
    ),
    (
        "ingress to one port of SCTP",
        &[("x", "{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}]}]}")],
    ),
    (
        "ingress to all of a protocol",
        &[("x", "{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}")],
    ),
    (
        "ingress to a range",
        &[("x", "{podSelector: {}, ingress: [{ports: [{protocol: TCP, port: 70, endPort: 80}]}]}")],
    ),
    (
        "ingress to a range of all",
        &[(
            "x",
            "{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 1, endPort: 65535}]}]}",
        )],
    ),
    ("ingress to a named port", &[("x", "{podSelector: {}, ingress: [{ports: [{port: serve}]}]}")]),
    (
        "ingress to a named port of UDP",
        &[("x", "{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: serve-udp}]}]}")],
    ),
    (
        "ingress to a name no pod has",
        &[("x", "{podSelector: {}, ingress: [{ports: [{port: nothing}]}]}")],
    ),
    (
        "ingress from a peer on a port",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: 'y'}}}], ports: [{port: 80}]}]}",
        )],
    ),
    (
        "ingress by two rules",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}], ports: [{port: 81}]}]}",
        )],
    ),
    (
        "ingress by two policies",
        &[
            ("x", "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}]}]}"),
            (
                "x",
                "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{protocol: UDP, port: 81}]}]}",
            ),
        ],
    ),
    (
        "an allowing policy over a denying one",
        &[
            ("x", "{podSelector: {}, policyTypes: [Ingress]}"),
            ("x", "{podSelector: {matchLabels: {pod: b}}, ingress: [{}]}"),
        ],
    ),
    (
        "ingress from a block",
        &[("x", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.1.8/29}}]}]}")],
    ),
    (
        "ingress from a block of IPv6",
        &[(
            "x",
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 'fd00:10:244:1::10/126'}}]}]}",
        )],
    ),
    (
        "ingress from a block with exceptions",
        &[(
            "x",
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.1.12/30, 10.244.1.18/32]}}]}]}",
        )],
    ),
    (
        "an exception another block gives back",
        &[(
            "x",
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.1.12/30]}}, {ipBlock: {cidr: 10.244.1.13/32}}]}]}",
        )],
    ),
    (
        "ingress from everywhere as a block",
        &[(
            "x",
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}]}]}",
        )],
    ),
    (
        "egress to pods of the same namespace",
        &[("x", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}")],
    ),
    (
        "egress to a pod by label",
        &[(
            "x",
            "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: c}}}]}]}",
        )],
    ),
    (
        "egress to one port",
        &[("x", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 81}]}]}")],
    ),
    (
        "egress to a named port",
        &[("x", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: serve}]}]}")],
    ),
    (
        "egress to a named port of some",
        &[(
            "x",
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: serve}, {protocol: UDP, port: 80}]}]}",
        )],
    ),
    (
        "egress to a block with exceptions",
        &[(
            "x",
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.1.16/32]}}, {ipBlock: {cidr: 'fd00:10:244::/48', except: ['fd00:10:244:1::10/125']}}]}]}",
        )],
    ),
    (
        "egress without the word, and so ingress too",
        &[("x", "{podSelector: {}, egress: [{to: [{podSelector: {}}]}]}")],
    ),
    (
        "both directions have to agree",
        &[
            (
                "x",
                "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: 'y'}}}], ports: [{port: 80}]}]}",
            ),
            (
                "y",
                "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}, podSelector: {matchLabels: {pod: a}}}], ports: [{port: 80}, {protocol: UDP, port: 80}]}]}",
            ),
        ],
    ),
    (
        "the same pods from three namespaces",
        &[
            (
                "x",
                "{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}]}",
            ),
            (
                "y",
                "{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}]}",
            ),
            (
                "z",
                "{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}]}",
            ),
        ],
    ),
    (
        "a policy that selects nobody",
        &[("x", "{podSelector: {matchLabels: {pod: d}}, policyTypes: [Ingress, Egress]}")],
    ),
    (
        "peers that are nobody",
        &[("x", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: d}}}]}]}")],
    ),
];
