"""Whether the templates of deploy/ permit and deny what they must, and nothing else: who may do what to which key, secret and table.

LocalStack enforces no IAM, so this reads the statements themselves, by cfn-lint's own loader, and compares them with what stands here. A
change of a policy is a change here, too.
"""

import copy
import json
import sys

from cfnlint.decode import cfn_yaml

SERVICE = {"Fn::GetAtt": ["ServiceRole", "Arn"]}
SECURITY = {"Fn::GetAtt": ["SecurityRole", "Arn"]}
ADMINISTRATORS = {"Ref": "Administrators"}
ACCOUNT = {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}
EVERYBODY = "*"

MANAGE = """kms:CancelKeyDeletion kms:CreateAlias kms:DeleteAlias kms:DescribeKey kms:DisableKey kms:EnableKey kms:EnableKeyRotation
    kms:GetKeyPolicy kms:GetKeyRotationStatus kms:ListGrants kms:ListKeyPolicies kms:ListResourceTags kms:PutKeyPolicy
    kms:ScheduleKeyDeletion kms:TagResource kms:UntagResource kms:UpdateAlias kms:UpdateKeyDescription"""
USE = "kms:Decrypt kms:Encrypt kms:GenerateDataKey* kms:ReEncrypt*"
ITEMS = """dynamodb:BatchGetItem dynamodb:ConditionCheckItem dynamodb:DeleteItem dynamodb:GetItem dynamodb:PutItem dynamodb:Query
    dynamodb:Scan dynamodb:UpdateItem"""
READ_SECRET = "secretsmanager:DescribeSecret secretsmanager:GetSecretValue"
WRITE_SECRET = "secretsmanager:PutSecretValue secretsmanager:UpdateSecretVersionStage"

# The encryption context of a customer key: all three entries, and no other.
CUSTOMER_KEY = {
    "StringEquals": {"kms:EncryptionContext:triseal:deployment": {"Ref": "Deployment"}},
    "Null": {"kms:EncryptionContext:triseal:customer": "false", "kms:EncryptionContext:triseal:version": "false"},
    "ForAllValues:StringEquals": {
        "kms:EncryptionContextKeys": ["triseal:deployment", "triseal:customer", "triseal:version"]
    },
}
BY_DYNAMODB = {"kms:ViaService": {"Fn::Sub": "dynamodb.${AWS::Region}.amazonaws.com"}}
BY_SECRETS_MANAGER = {"kms:ViaService": {"Fn::Sub": "secretsmanager.${AWS::Region}.amazonaws.com"}}
# How Secrets Manager tries a key for whoever creates a secret under it.
TRIAL = {"kms:EncryptionContext:SecretVersionId": "RequestToValidateKeyAccess"}
HMAC = {"StringEquals": {"kms:MacAlgorithm": "HMAC_SHA_256"}}
NO_AWS_SERVICE = {"Bool": {"aws:PrincipalIsAWSService": "false"}}


def being(operator, *roles):
    return {operator: {"aws:PrincipalArn": list(roles) if len(roles) > 1 else roles[0]}}


# Of each key and secret: effect, who, what, under which conditions.
RESOURCE_POLICIES = {
    "WrappingKey": [
        ("Allow", ADMINISTRATORS, MANAGE, {}),
        ("Allow", SERVICE, "kms:Decrypt kms:GenerateDataKeyWithoutPlaintext", CUSTOMER_KEY),
        ("Allow", ACCOUNT, "kms:ReEncryptFrom kms:ReEncryptTo", CUSTOMER_KEY | being("ArnEquals", SERVICE)),
        (
            "Allow",
            ACCOUNT,
            f"kms:CreateGrant kms:DescribeKey {USE}",
            {"StringEquals": BY_DYNAMODB | {"kms:CallerAccount": {"Ref": "AWS::AccountId"}}},
        ),
        (
            "Deny",
            EVERYBODY,
            USE,
            NO_AWS_SERVICE | being("ArnNotEquals", SERVICE) | {"StringNotEqualsIfExists": BY_DYNAMODB},
        ),
    ],
    "SecretKey": [
        ("Allow", ADMINISTRATORS, MANAGE, {}),
        ("Allow", SERVICE, "kms:Decrypt", {"StringEquals": BY_SECRETS_MANAGER}),
        ("Allow", SECURITY, "kms:Decrypt kms:GenerateDataKey", {"StringEquals": BY_SECRETS_MANAGER}),
        ("Allow", ADMINISTRATORS, "kms:Decrypt kms:GenerateDataKey", {"StringEquals": BY_SECRETS_MANAGER | TRIAL}),
        (
            "Deny",
            EVERYBODY,
            USE,
            NO_AWS_SERVICE | being("ArnNotEquals", SERVICE, SECURITY) | {"StringNotEqualsIfExists": TRIAL},
        ),
    ],
    "AuditKey": [
        ("Allow", ADMINISTRATORS, MANAGE, {}),
        ("Allow", SERVICE, "kms:GenerateMac", HMAC),
        ("Allow", SECURITY, "kms:VerifyMac", HMAC),
        ("Deny", EVERYBODY, "kms:GenerateMac", being("ArnNotEquals", SERVICE)),
    ],
    "EnvironmentSecretPolicy": [
        (
            "Deny",
            EVERYBODY,
            f"""secretsmanager:BatchGetSecretValue secretsmanager:GetSecretValue secretsmanager:ReplicateSecretToRegions
            secretsmanager:RotateSecret secretsmanager:UpdateSecret {WRITE_SECRET}""",
            being("ArnNotEquals", SERVICE, SECURITY),
        ),
        ("Deny", SERVICE, f"not {READ_SECRET}", {}),
    ],
}

# Of each role: what, to what, under which conditions. Nothing is denied there.
ROLES = {
    "service": [
        ("kms:Decrypt kms:GenerateDataKeyWithoutPlaintext", "WrappingKey", CUSTOMER_KEY),
        ("kms:Decrypt kms:ReEncryptFrom", "FormerWrappingKeys", CUSTOMER_KEY),
        ("kms:ReEncryptTo", "WrappingKey", CUSTOMER_KEY),
        ("kms:Decrypt kms:DescribeKey", "wrapping-key", {"StringEquals": BY_DYNAMODB}),
        ("secretsmanager:GetSecretValue", "EnvironmentSecret", {}),
        ("kms:Decrypt", "SecretKey", {"StringEquals": BY_SECRETS_MANAGER}),
        ("kms:GenerateMac", "AuditKey", HMAC),
        (ITEMS, "Credentials", {}),
        (ITEMS, "Customers", {}),
        (ITEMS, "Operations", {}),
    ],
    "security": [
        (f"secretsmanager:ListSecretVersionIds {READ_SECRET} {WRITE_SECRET}", "EnvironmentSecret", {}),
        ("kms:Decrypt kms:GenerateDataKey", "SecretKey", {"StringEquals": BY_SECRETS_MANAGER}),
        ("kms:VerifyMac", "AuditKey", HMAC),
    ],
}


def plain(value):
    """As it compares: without cfn-lint's marks, and in one order."""
    return json.dumps(value, sort_keys=True)


def listed(template, actions):
    match actions:
        case {"Fn::FindInMap": [name, key, field]}:
            return template["Mappings"][name][key][field]
        case str():
            return [actions]
    return actions


def named(reference):
    """The last word of what names a role or a resource: that of the resource, or of what another stack exports."""
    match reference:
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            return {"ServiceRole": "service", "SecurityRole": "security"}.get(name, name)
        case {"Fn::ImportValue": {"Fn::Sub": name}}:
            return name.removeprefix("triseal-${Deployment}-").removesuffix("-role")
    raise SystemExit(f"what is {plain(reference)}?")


def statements(template):
    """Whose policy, and each statement of it."""
    for name, resource in template["Resources"].items():
        properties = resource["Properties"]
        match resource["Type"]:
            case "AWS::KMS::Key":
                document = properties["KeyPolicy"]
            case "AWS::SecretsManager::ResourcePolicy":
                document = properties["ResourcePolicy"]
            case "AWS::IAM::RolePolicy":
                name, document = named(properties["RoleName"]), properties["PolicyDocument"]
            case "AWS::IAM::Role" if "Policies" in properties or "ManagedPolicyArns" in properties:
                raise SystemExit(f"{name} has policies that are not checked here")
            case _:
                continue
        for statement in document["Statement"]:
            yield name, statement


def found(templates):
    for template in templates:
        for owner, statement in statements(template):
            actions = " ".join(sorted(listed(template, statement.get("Action") or statement["NotAction"])))
            actions = actions if "Action" in statement else f"not {actions}"
            condition = plain(statement.get("Condition", {}))
            if owner in ROLES:
                yield owner, statement["Effect"], actions, named(statement["Resource"]), condition
            else:
                who = statement["Principal"]
                who = who["AWS"] if isinstance(who, dict) else who
                yield owner, statement["Effect"], actions, plain(who), condition


def expected():
    def in_order(actions):
        words = actions.removeprefix("not ").split()
        return ("not " if actions.startswith("not ") else "") + " ".join(sorted(words))

    for owner, rows in RESOURCE_POLICIES.items():
        for effect, who, actions, condition in rows:
            yield owner, effect, in_order(actions), plain(who), plain(condition)
    for role, rows in ROLES.items():
        for actions, what, condition in rows:
            yield role, "Allow", in_order(actions), what, plain(condition)


def differences(templates):
    have, want = sorted(found(templates)), sorted(expected())
    return [f"missing: {row}" for row in want if row not in have] + [f"not expected: {row}" for row in have if row not in want]


def main():
    templates = [cfn_yaml.load(f"deploy/cloudformation/{name}.yaml") for name in ["keys", "tables"]]
    told = differences(templates)
    if told:
        sys.exit("\n".join(told))
    # And that it would notice: each statement without its conditions, and each other effect.
    count = 0
    for number, template in enumerate(templates):
        for index, _ in enumerate(statements(template)):
            for change in [lambda one: one.pop("Condition", None), lambda one: one.update(Effect="Audit")]:
                changed = copy.deepcopy(templates)
                one = list(statements(changed[number]))[index][1]
                before = plain(one)
                change(one)
                if plain(one) != before and not differences(changed):
                    sys.exit(f"nobody noticed a change of {before}")
                count += plain(one) != before
    print(f"who may do what in deploy/cloudformation: as expected, and {count} changes of it are noticed")


main()
