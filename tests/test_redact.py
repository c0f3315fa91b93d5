"""What redaction takes out, what it leaves alone, and that no text holds it up."""

import copy
import json
import string
import time

import pytest

import hook_io
from conftest import SAMPLES, is_cpython, sample
from hook_io import SKIPPED, clip, redact

GONE = "[redacted]"
#: values that no scanner knows; "dotted" has the form of a session token
VALUES = {"mixed": "Zq7" * 8, "dotted": "MTk4NzQyNg.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kK"}
LETTERS = "correcthorse"
HEX = "0a1b2c3d" * 4
ALPHABETS = {
    "hex": "0123456789abcdef", "upper": string.ascii_uppercase + string.digits,
    "lower": string.ascii_lowercase + string.digits,
    "word": string.ascii_letters + string.digits}
ALPHABETS["url"] = ALPHABETS["word"] + "_-"
ALPHABETS["all"] = ALPHABETS["url"] + "./+~="
#: alphabet -> how a published key begins, whose rest is of that alphabet, and how many
#: characters follow at the least
FORMS = {
    "hex": {"SK": 32, "dapi": 32},
    "upper": {"AKIA": 16, "ASIA": 16, "ABIA": 16, "ACCA": 16, "A3T": 17, "SCW": 17},
    "lower": {"oy2": 43},
    "word": {"LTAI": 12, "AKID": 32, "AKCp": 60, "cmVmd": 50, "EZAK": 54, "EZTK": 54,
             "ATBB": 32, "cio": 32, "4b1d": 38, "hf_": 30, "api_org_": 30,
             "sk_live_": 10, "sk_test_": 10, "rk_live_": 10, "rk_test_": 10,
             "rzp_live_": 14, "rzp_test_": 14},
    "url": {"AIza": 35, "EAA": 20, "1//0": 35, "GR1348941": 20, "sha256~": 43,
            "ya29.": 20, "HRKU-": 36, "amzn.mws.": 36, "YCAJE": 20, "AQVN": 35,
            "BSA": 28, "A21AA": 60, "AVNS_": 19, "A3-": 30},
    "all": {"ATATT3": 50, "ATCTT3": 50, "ABSK": 60, "eyJ": 20, "SG.": 40, "xoxb-": 10,
            "xoxp-": 10, "xoxa-": 10, "xoxs-": 10, "xoxc-": 10, "xoxd-": 10, "xoxe": 10,
            "xoxr-": 10, "xoxo-": 10, "xapp-": 10, "IQoJ": 100, "dG9r": 56,
            "FLWSECK": 12, "sk.eyJ": 40}}

SECRET_MEMBERS = (
    "authorization", "Proxy-Authorization", "api_key", "apiKey", "X-Api-Key", "API KEY",
    "token", "access_token", "refreshToken", "GITHUB_TOKEN", "sessionToken", "password",
    "Password", "db.password", "DB_PASSWORD", "passwd", "pwd", "passphrase", "secret",
    "client_secret", "aws_secret_access_key", "private_key", "privateKey", "cookie",
    "Set-Cookie", "cookies", "secrets", "credentials", "connectionString", "auth",
    "bearer", "jwt", "xauth", "accessKey", "account-key", "signing-key", "SHARED_KEY",
    "masterKey", "encryption_key", "secretKey", "credential", "password1", "api_key_2",
    "api_keys", "passwords", "authorization_header", "SECRET_KEY_BASE", "DB_PASS")
OTHER_MEMBERS = (
    "max_tokens", "tokenizer", "session_id", "token_count", "prompt_cache_warm",
    "author", "authors", "authority", "key", "keys", "public_key", "primary_key",
    "input_tokens", "cache_read_input_tokens", "token_type", "cookie_policy",
    "authenticated", "keyboard", "monkey", "secretary", "passenger", "compass",
    "tool_use_id", "transcript_path", "content", "jwt_alg", "password_length", "auth0",
    "next_page_token", "pad_token", "render_pass")


@pytest.mark.parametrize("name", SECRET_MEMBERS)
def test_a_member_whose_name_says_secret_is_redacted_whatever_it_holds(name):
    for held in (LETTERS, "x", 12345678, ["a", "b"], {"n": {"v": LETTERS}}):
        assert redact({name: held, "n": [held]}) == {name: GONE, "n": [held]}
        assert redact([{"a": {name: held}}]) == [{"a": {name: GONE}}]


@pytest.mark.parametrize("held", [
    0.1, 12, True, {"user": "bob"}, [{"name": LETTERS}], {"type": "string"},
    {"type": "string", "default": LETTERS}, {"version": "4.1.3", "dependencies": {
        "psl": "^1.1.33"}, "resolved": "https://r/x.tgz", "integrity": "sha512-" + HEX},
    "Password", "Enter your token", "^1.2.3", "${TOKEN}", "https://h/token"], ids=repr)
@pytest.mark.parametrize("name", ["password", "tough-cookie", "api_key", "secrets"])
def test_a_member_named_as_a_secret_stays_where_it_can_be_none(name, held):
    assert redact({name: held}) == {name: held}
    text = json.dumps({"n": 1, name: held}, indent=1)
    assert redact(text) == text


@pytest.mark.parametrize("name", OTHER_MEMBERS)
def test_a_member_with_another_name_stays(name):
    for held in (LETTERS, 12345678, ["a"], {"user": "bob"}):
        assert redact({name: held}) == {name: held}


@pytest.mark.parametrize("held", [None, True, False, "", 0, [], {}], ids=repr)
def test_a_secret_member_that_holds_nothing_stays(held):
    event = {"password": held, "token": held}
    assert redact(event) == event


@pytest.mark.parametrize("place", [
    ["--password", "{}"], ["x", "--api-key", "{}", "-v"],
    {"name": "TOKEN", "value": "{}"}, {"key": "X-Api-Key", "value": ["{}"], "n": 1},
    [["Authorization", "{}7"]]], ids=repr)
def test_a_secret_is_known_by_what_stands_beside_it(place):
    text = json.dumps(place)
    whole = json.loads(text.replace('["{}"]', '"{}"').replace("{}7", "{}").replace(
        "{}", GONE))
    assert redact(json.loads(text.replace("{}", LETTERS))) == whole


@pytest.mark.parametrize("name", ["name", "key", "variable"])
@pytest.mark.parametrize("quote", ['"', "'", r'\"', r'\\\"'], ids=repr)
def test_a_secret_is_known_by_the_member_before_or_behind_it_in_a_text(name, quote):
    for text in ("x {'NAME': 'X-Api-Key', 'value': '{}'} y",
                 "x {'value': '{}', 'NAME': 'X-Api-Key'} y",
                 "[{'value':'{}',\n 'NAME':'X-Api-Key'}, {'value': 'b', 'NAME': 'n'}]"):
        given = text.replace("NAME", name).replace("'", quote)
        for value in (LETTERS, *VALUES.values()):
            assert redact(given.replace("{}", value)) == given.replace("{}", GONE)
        plain = given.replace("X-Api-Key", "Accept").replace("{}", LETTERS)
        assert redact(plain) == plain


@pytest.mark.parametrize("event", [
    ["--token-count", "12"], ["--password", "-v"], ["--password", "$PW"], ["--token"],
    ["password", "email"], ["--token=", "x"], {"name": "title", "value": "x"},
    {"name": "password", "value": ""}, {"name": 1, "value": "x"}, [1, "x"],
    [["--a"], "x"],
    {"credentials": "include"}, {"cookie": "^0.5.0"}, {"token": "***"},
    {"password": {"type": "string"}}, {"pwd": "/home/bob"}], ids=repr)
def test_what_stands_beside_an_innocent_name_stays(event):
    assert redact(event) == event


#: with any value in place of {}
NAMED = (
    "export API_KEY={} && npm start", "API_KEY='{}' x", 'API_KEY="{}" npm start',
    "env AWS_SECRET_ACCESS_KEY={} aws s3 ls", "DB_PASSWORD={}\nDB_HOST=db",
    "cd /x; GITHUB_TOKEN={}; git push", "$env:API_TOKEN = '{}'", "SECRET1={}",
    "mysql --password={} -h db", "mysql --password {} -h db", "x --api-key '{}' -v",
    'x --auth-token="{}" -v', "x --client-secret {}",
    "curl -u bob:{} https://h/x", "curl --user bob:{} https://h", "curl -u 'bob:{}' h",
    "curl -ubob:{} https://h", 'curl --user "bob:{}" https://h',
    "curl -H 'Authorization: Bearer {}' https://h", 'curl -H "X-Api-Key: {}" h',
    "curl -H 'Authorization: token {}' h", "curl -H 'Cookie: {}' h",
    'curl --header "PRIVATE-TOKEN: {}" h', "curl -H 'x-auth-token:{}' h",
    "GET / HTTP/1.1\r\nAuthorization: Basic {}\r\nHost: h", "Set-Cookie: {}\nX: y",
    "password: '{}'\nuser: bob", 'api_key: "{}" # for tests', "'secret' => '{}',",
    'token := "{}"', "client.secret = '{}'", "connect(user='bob', password='{}')",
    "postgres://app:{}@db:5432/x", "redis://:{}@h:6379/0", "see http://u:{}@h/p and",
    "sshpass -p {} ssh h", "sshpass -p '{}' ssh h", "Server=h;Password={};Port=1",
    """curl -d '{"password": "{}", "user": "bob"}' h""",
    r'echo "{\"token\": \"{}\", \"n\": 1}" | x', r'x "{\\\"api_key\\\":\\\"{}\\\"}" y',
    "https://h/x?access_token={}&y=1", "git -c http.extraHeader='Authorization: {}' x",
    "signingKey = '{}'", "account-key={}", "accessKey={} ",
    "CREATE USER bob IDENTIFIED BY '{}';", 'alter user a identified by "{}"',
    "getenv('DB_PASSWORD') ?: '{}'",
    "kubectl create secret generic x --from-literal=password={}",
    "helm install x --set=db.password={}", "zip -P {} x.zip f", "az login -p {} -t t",
    "ssh-keygen -t rsa -N {} -f x", "openssl rsa -passin pass:{} -in x",
    'db.password = """{}"""', 'Dim apiKey As String = "{}"',
    'var apiKey string = "{}"', 'apiKey <- "{}"', 'os.Setenv("DB_PASSWORD", "{}")',
    "headers.set('X-Api-Key', '{}')", "localStorage.setItem('access_token', '{}')",
    '#define CLIENT_SECRET "{}"', 'variable "db_password" {\n  default = "{}"\n}',
    "auth=('bob', '{}')", "TOKEN={}\x1b[0m x",
    "smbclient //h/s -U bob%{}", 'char password[255] = "{}";',
    '<password type="string">{}</password>', "<AdminPassword><Value>{}</Value>")
#: with a value that mixes letters and digits
MIXED = (
    "SECRET KEY:{}", "API key: {}\nx", "npm config set //h/:_authToken {}\n",
    'auth.Add("token", "{}")', "password {}\nuser bob",
    "password: {}\nuser: bob", "api_key: {} # for tests", "token = {}",
    "the header was Bearer {} and", "the secret {} and", "acme ACCESS_KEY {}",
    "Basic {} x", "STRIPE_KEY={} npm start", "user_pw: '{}'",
    'secret := []byte("{}")', 'let apiKey = String::from("{}");', 'token=Some("{}")',
    'std::string apiKey{"{}"};', 'mapOf("api_key" to "{}")', 'api_keys = ["{}"]',
    "DB_PASSWORD -> {}\n", "Your api_key is {}\n", "| access_token | {} |",
    "curl --oauth2-bearer {} h", 'req.SetBasicAuth("bob", "{}")',
    "Authorization=Bearer {}",
    "https://h/b?sv=1&sig={}&se=2", "https://h/x?key={}#top", "https://h/x?a=b&key={}",
    "?code={}", "https://h/x?X-Amz-Signature={}&X-Amz-Date=1", "?signature={}",
    "https://h/x?X-Amz-Credential={}&X-Amz-Date=1")


#: with a value that a person might think of, or any that mixes
GIVEN = (
    'echo "{}" | docker login -u bob --password-stdin h',
    "printf '%s' '{}' | gh secret set DEPLOY_TOKEN", "echo {} | sudo -S apt update",
    "sudo -S apt update <<< '{}'", 'gh auth login --with-token <<< "{}"',
    "x\necho -n {} | wrangler secret put KEY\ny", "echo 'bob:{}' | chpasswd",
    r'x "echo \"{}\" | docker login --password-stdin"',
    "$p = ConvertTo-SecureString '{}' -AsPlainText -Force",
    r'{"stdout": "jwt.sign(claims, \"{}\");\n.bearer_auth(\"{}\")"}',
    "cargo login {}", "wandb login {} && x", "rclone obscure {} | x",
    "htpasswd -bc .htpasswd bob {}", "mc alias set m https://h me {}",
    "twine upload -u __token__ -p {}", "doctl auth init -t {}", "lftp -u bob,{} h",
    'req.SetBasicAuth("bob", "{}")', '.bearer_auth("{}")', "h.setBearerAuth('{}');",
    '.basic_auth("bob", Some("{}"))', 'new NetworkCredential("bob", "{}")',
    "jwt.sign({ id: user.id, at: f(1) }, '{}', { x: 1 })", "jwt.verify(token, '{}')",
    'jwt.encode(payload, "{}", algorithm="HS256")', 'createHmac("sha256", "{}")',
    'smtp.login("bob@example.com", "{}")', 'new PDO($dsn, "root", "{}")',
    'DriverManager.getConnection("jdbc:x,y", "bob", "{}")',
    'mysqli_connect("h", "root", "{}", "app")', 'hmac(createHmac("sha1", b"{}"))',
    "API key (prod): {}\nx", "DB_PASSWORD (staging): {}", "pw: {}",
    'public string ApiKey { get; set; } = "{}";', "auth: { user: 'bob', pass: '{}' }",
    'variable "db_password" {\n  type = string\n  default = "{}"\n}',
    'password = os.environ.get("DB_PASS") or "{}"', 'getenv("API_TOKEN", "{}")')
THOUGHT_OF = ("hunter2pass", "Summer2024!", "acme2-Widgets")


@pytest.mark.parametrize("text", GIVEN)
def test_a_secret_that_is_given_where_only_one_is_taken_is_redacted(text):
    for value in (*VALUES.values(), *THOUGHT_OF):
        assert redact(text.replace("{}", value)) == text.replace("{}", GONE)


@pytest.mark.parametrize("text", [
    "password {}\nx", "machine h login bob password {}", "the password is {}\n",
    "The password is {}.", "the password is {}.\nx"])
def test_a_password_in_a_sentence_may_hold_an_ampersand(text):
    assert redact(text.replace("{}", "Tr0ub4dor&3")) == text.replace("{}", GONE)
    for rest in ("&& y", "&y"):  # which a flag's value ends before
        assert redact(f"x --token abc1def2{rest}") == f"x --token {GONE}{rest}"


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("text", NAMED + MIXED)
def test_a_secret_with_a_name_is_redacted_and_its_neighbours_stay(text, kind):
    assert redact(text.replace("{}", VALUES[kind])) == text.replace("{}", GONE)


@pytest.mark.parametrize("text", NAMED)
def test_a_secret_with_a_name_may_be_letters_only(text):
    assert redact(text.replace("{}", LETTERS)) == text.replace("{}", GONE)


@pytest.mark.parametrize("word", [
    "password", "passwd", "passphrase", "pwd", "secret", "token", "credential",
    "credentials", *(f"{kind}{sign}key" for sign in ("", "_", "-") for kind in (
        "api", "access", "account", "private", "secret", "signing", "encryption",
        "master", "shared"))])
def test_each_word_for_a_secret_is_known_in_a_text(word):
    for name in (word, word.upper(), f"MY_{word}", f"my.{word}", f"{word}1"):
        for text in (f"{name}={{}} x", f"'{name}': \"{{}}\", y", f"x --{word} {{}} y"):
            assert redact(text.replace("{}", LETTERS)) == text.replace("{}", GONE)


@pytest.mark.parametrize("text", [
    "export AWS_SESSION_TOKEN={} && aws s3 ls", 'AWS_SESSION_TOKEN="{}" aws s3 ls',
    "docker login -u AWS --password {} h", "aws_session_token = {}\nregion = x",
    "curl -u oauth:{} https://h", "sshpass -p {} ssh h", "https://h/b?sig={}&se=2",
    "Authorization: Bearer {}\nHost: h", "Bearer {} x",
    """curl -d '{"token": "{}", "n": 1}' h"""])
@pytest.mark.parametrize("long", ["Zq7" * 600, "Zq7+/" * 300], ids=["word", "base64"])
def test_a_long_secret_is_redacted_to_its_end(text, long):
    assert redact(text.replace("{}", long)) == text.replace("{}", GONE)
    url = "https://oauth:{}@h/x"
    assert redact(url.format("Zq7" * 600)) == url.format(GONE)


@pytest.mark.parametrize(("text", "safe"), [
    (r'''x '{"password": "ab\"cd9\"ef", "n": 1}' ''',
     r'''x '{"password": "{}", "n": 1}' '''),
    (r'x "{\"password\": \"ab\\\"cd9\", \"n\": 1}"',
     r'x "{\"password\": \"{}\", \"n\": 1}"'),
    ("postgres://app:p@ssw0rd9@db/x", "postgres://app:{}@db/x"),
    ('API_KEY="two words 7" x', 'API_KEY="{}" x'),
    ("PASSWORD='it is 1' x", "PASSWORD='{}' x"),
    ("--password 'two words' x", "--password '{}' x"),
    ('\n {"pin_token": 12345678}', '{"pin_token": "{}"}'),
])
def test_quotes_signs_and_blanks_inside_a_secret_do_not_end_it(text, safe):
    assert redact(text).strip() == safe.replace("{}", GONE).strip()


@pytest.mark.parametrize("key", [
    "obNMA/cATLkY7QV1hV2YdKxikXs3T6JYzC9bDmv", "/dnAItz9Lvw6yL31gMZmlsqKLd47Nee6",
    "+PzbF6M/y/pTcivTPf4+uINQVfWOf9O9h9SVHvZL"])
@pytest.mark.parametrize("text", [
    "postgres://app:{}@db/x", "git clone https://oauth2:{}@h/a", 'password: "{}"',
    'self.secret_key = "{}"', '{"api_key":"{}"}',
    "https://bob:{}@example.com/a/longer/path/of/words, mail a@b.c"])
def test_base64_is_redacted_with_what_is_no_letter_wherever_it_stands(text, key):
    assert redact(text.replace("{}", key)) == text.replace("{}", GONE)


def test_an_address_in_the_path_does_not_hide_the_password_before_it():
    safe = redact("https://bob:/dnAItz9Lvw6yL31gMZmlsqK@examplecompany.org"
                  "/documentation/introduction/installation?correspondence=ann@b.c")
    assert safe == f"https://bob:{GONE}@b.c"


@pytest.mark.parametrize("text", [
    "http://localhost:PORT/@vite/client", "http://localhost:3000/@fs/Users/bob2/x",
    "http://${HOST}:${PORT}/api/v1/users/@me/2", "http://h:$PORT/@fs/Users/bob2/node9",
    "file://C:/Users/bob2/node_modules/@types/node9", "https://x.y:, mail b22@a.b",
    "https://h:port/path/v2/me@example.com", "http://a:{port}/{x}/@{y}",
    '{"url":"http://web:API/v1/Items/42","mail":"a@b.c"}',
    "svn+ssh://host:trunk/rev12345/abcDEF/File99.java@HEAD",
    'q = "token="+tok3nValueOfUser12+"&x"', '"password="+base64Encode2Of3Things4',
    'url = "?password="+encodeURIComponent(pw2)+"&x=1"',
    "'api_key='+this.apiKey2+'&b'"])
def test_a_path_and_what_is_joined_are_no_base64(text):
    assert redact(text) == text


def part(bytes_of):
    import base64

    return base64.urlsafe_b64encode(bytes_of).decode().rstrip("=")


def web_token(payload_bytes, signature):
    payload = b'{"sub":"1234567890","n":"' + b"Jd9" * (payload_bytes // 3) + b'"}'
    return ".".join([part(b'{"alg":"HS256","typ":"JWT"}'), part(payload), signature])


def key_block(kind, body="Q7" * 32, end=True):
    lines = [f"-----BEGIN {kind}-----", *[body] * 25]
    return "\n".join([*lines, f"-----END {kind}-----"] if end else lines)


#: where a key may stand
PLACES = (
    "{}", "use {} now", '"{}"', "'{}'", "({})", "x={};", "a,{},b", "\n{}\n", "<{}>",
    "https://h/x?y={}&z", "cmd --opt {}", "{}\\n", "a: {}")


def assert_redacted_everywhere(secret):
    for place in PLACES:
        assert redact(place.replace("{}", secret)) == place.replace("{}", GONE)


@pytest.mark.parametrize(("start", "alphabet", "least"), [
    (start, alphabet, least) for alphabet, starts in FORMS.items()
    for start, least in starts.items()])
def test_a_providers_key_is_redacted_wherever_it_stands(start, alphabet, least):
    body = "".join(c for c in "b3Xd7Fa2Qc9Ze4" * 40 if c in ALPHABETS[alphabet])
    assert_redacted_everywhere(start + body[:max(least, 16 - len(start))])


@pytest.mark.parametrize("start", [
    "sk-", "sk-proj-", "ghp_", "github_pat_", "glpat-", "npm_", "pypi-", "hvs.",
    "dop_v1_", "shpat_", "lin_api_", "gsk_", "xai-", "CLOJARS_", "zz-", "Q7_new_"])
@pytest.mark.parametrize("body", [
    "aB3dE7gH1jK5mN8pQ2rS", "7Xw4kP9qR2sT6vY1zB3cD5fG8hJ0", "0a1b2c3d4e5f" * 3,
    "Q2X7Z9K4M1P8" * 3, "aB3/dE7+gH1jK5mN8pQ2/rS4tU6"])
def test_a_word_a_sign_and_a_random_body_are_a_key_whoever_issues_it(start, body):
    assert_redacted_everywhere(start + body)


@pytest.mark.parametrize("secret", [
    "sk_3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f", "sm_pat_aB3dE7gH1jK5mN8p",
    "client-access-3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f",
    "zz_live_kPqRsTuXyZbWcDfGhJmN",
    "key_live_7Xw4kP9qR2sT6vY1zB3cD5fG8hJ0", "zz_Q7x=2kP9qR2sT6vY1zB3cD5fG8hJ0",
    "zz_Y/lHd5xG/TeXDFReD0pKzVLCzaBq8E5IPIs4Mi5k", "zz-VR84FL4K6KEJW9K_G7CG33ZYTMPJ",
    "zz-uaCdbLULRWLXGyyIunsi",  # pairs that no word has
    "zz_" + "1234567890abcdef" * 4, "pk_30562622_3x69lkaudym81658ga5mherdc53pzfo0",
    "sk_live_a2V5XzC5WzOkwEtGxuoY2BWn/hXtS90GZvgKvksClVmPbqsiK2OgXf",
    "1000.a19eceff25efa0d25a7adbea1d1b8428.1529fcd93930f8084a9c3a7afb2b9079"],
    ids=lambda text: text[:10])
def test_a_key_may_have_many_words_before_it_and_any_signs_in_it(secret):
    assert_redacted_everywhere(secret)


@pytest.mark.parametrize("start", ["npm_", "zz-", "lin_api_", "hvs."])
def test_the_words_of_a_path_behind_a_key_stay(start):
    text = "GET https://h.example/v1/" + start + "{}/items/all?n=1"
    assert redact(text.replace("{}", VALUES["mixed"])) == text.replace(
        start + "{}", GONE)


@pytest.mark.parametrize("secret", [
    "cnvca0dXar0frimzwQowZyb4ypgl7nWXNWEuDpg", "EXO0gLxFso7hPDK2lsGT2lnJZ9D",
    "0f8QaHogAa68o06CMwziGEuPNnW14", "waka_3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f",
    "zz-7_ni26od8yhls=qjha2_e0bk-r-hcqdz0-iky9i_xwx3", "QaHogAa68o06CMwziGEuPNnW1_4",
    "QaHogAa68o06CMwziGEuPNnW14=VdLJS5e5YdeyL2uPNfBjD1WU",
    "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFcEFJQkFBS0NBUUVB"])
def test_a_word_that_nobody_would_write_is_a_key_even_without_a_sign_in_it(secret):
    assert_redacted_everywhere(secret)


@pytest.mark.parametrize("text", [
    "SHA256:z7YcKxCLJyo0DjB3uJy4rtqWD8VUquDd4Mls3Z16uuA bob",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIb3mg21unkUNXftE6oDt7D3AgSEksF8eDow6HHEixX1q",
    "\n" + "".join("aB3dE7gH1jK5mN8pQ2rS" * 4)[:76] + "\n", "x.parseInt32BigEndian64Of",
    "rollout-2026-11-20T23-34-17-3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f.jsonl",
    "pk_live_aB3dE7gH1jK5mN8pQ2rS", "<x>HjY8ilZAIEM2tBbPn5mYO1ieIX4=</x>",
    "pvc-3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f", "testAddsTwo2And3ToMakeFive5"])
def test_a_hash_a_public_key_a_line_of_base64_and_a_name_are_none(text):
    assert redact(text) == text


@pytest.mark.parametrize("text", [
    "job_3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f", "org_aB3dE7gH1jK5mN8pQ2rS",
    "3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f", "5ECEC9E5-8F23-47B6-93E0-C3B328B3BE65",
    "buf.writeBigUInt64BE(0)", "this._legacyCallIdToStepId.get(n)",
    "--x-id=aB3dE7gH1jK5",
    ".my-cache/content-v2/sha512/ba/da/55deadbeefc0ffee", "exports.verifyLogBodyV2 = x",
    'print("shlex: token=" + repr(raw))', 'x("token: " + token2 + "aB3dE7gH1jK5")'])
def test_an_id_or_a_name_of_a_program_is_no_key(text):
    assert redact(f"x {text} y") == f"x {text} y"


@pytest.mark.parametrize("signature", [
    "Sf7KxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c", "7f-Kxw" * 7, "S", ""])
def test_a_web_token_is_redacted_whatever_its_signature(signature):
    assert_redacted_everywhere(web_token(40, signature))
    assert_redacted_everywhere(web_token(3000, signature))


@pytest.mark.parametrize("secret", [
    "hf_" + "aBcDeFgHiJ" * 3 + "kLmN",  # this provider's keys have no digits
    "SG." + "aB3" * 7 + "." + "dE7" * 14, "key-" + HEX],
    ids=lambda text: text[:5])
def test_keys_of_a_form_of_their_own_are_redacted(secret):
    assert_redacted_everywhere(secret)


@pytest.mark.parametrize(("text", "secret"), [
    ("https://hooks.slack.com/services/{}", "T0Zq7/B0Zq7/Zq7Zq7Zq7Zq7"),
    ("https://{}@github.com/a/b.git", "Zq7" * 10),
    ("https://eth.example.com/v2/{}", "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW"),
    ("https://{}:@github.com/a/b.git", "Zq7" * 10),
    ("bot123456789:{}/x", "AA" + "b3C" * 11),
    ("sid={}", "00D000000000062!AQ4AQ.b3C-" + "Zq7_" * 20),
    ("{}", "access_token$production$zq7b3c2kzq7b3c2k$" + HEX),
    ("https://discord.com/api/webhooks/123456789012345678/{}", "Zq7-" * 10)])
def test_an_address_that_is_a_key_is_redacted(text, secret):
    for place in ("{}", "post to {} now", "'{}'"):
        given = place.replace("{}", text)
        assert redact(given.replace("{}", secret)) == given.replace("{}", GONE)


@pytest.mark.parametrize("kind", [
    "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])
def test_a_private_key_is_redacted_also_without_its_end(kind):
    block = key_block(kind)
    assert redact(f"a\n{block}\nb\n{block}\nc") == f"a\n{GONE}\nb\n{GONE}\nc"
    escaped = block.replace("\n", "\\n")
    assert redact(f'k: "{escaped}" x') == f'k: "{GONE}" x'
    assert redact(f"a\n{key_block(kind, end=False)}") == f"a\n{GONE}"
    tail = block[200:]
    assert redact(f"{tail}\nb").replace(f"-----END {kind}-----", "") == f"{GONE}\nb"


def test_secrets_are_found_in_json_inside_strings_twice_over():
    inner = json.dumps({"password": LETTERS, "pin_token": 123456, "n": [1, "é"]})
    outer = json.dumps([{"text": inner, "cookie": {"a": "Zq7"}}, "x"])
    safe, = redact([f"{outer}"])
    list_, x = json.loads(safe)
    assert x == "x" and list_["cookie"] == GONE
    assert json.loads(list_["text"]) == {
        "password": GONE, "pin_token": GONE, "n": [1, "é"]}
    assert redact({"metadata": '{"n": 1.50,  "password": null}'}) == {
        "metadata": '{"n": 1.50,  "password": null}'}
    assert redact('{"pin_token": "x"}') == f'{{"pin_token": "{GONE}"}}'
    names = redact({f"--token={LETTERS}": 1, "n": {f"Bearer {VALUES['mixed']}": 2}})
    assert names == {f"--token={GONE}": 1, "n": {f"Bearer {GONE}": 2}}


LOOK_ALIKES = (
    "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", HEX, "sha256:" + HEX,
    "3f2b8c1e-8a4d-4e6b-9c2f-1a2b3c4d5e6f", "toolu_01A09q90qw90lq917835lq9",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA/AUA/AAAFCAYAAACNbyblAAAAHElE12P4",
    '"integrity": "sha512-9f/Zq7+" "resolved": "https://r/x-1.2.3.tgz"',
    "sha512-" + "Zq7/+" * 17 + "==", "the password is in the vault, the token expires",
    "Passwords: at least 12 characters. Tokens: see below. Secrets: none.",
    "token: a short-lived string", "Basic usage, basic auth and bearer tokens",
    "a token bucket; secret sauce; cookie banner", "password reset: done",
    "token = get_token()", "password = getpass.getpass('Name: ')", "password=password",
    "connect(user=user, password=password, token=token)", "token = self.token",
    "key=lambda x: x", "sorted(d, key=len)", "api_key=API_KEY", "token=client2.token",
    "tokenizer = AutoTokenizer.from_pretrained('gpt2')", "password = os.environ['P_1']",
    "secret = config.get('secret')", "api_key = os.getenv('API_KEY')", "token = None",
    "const token = process.env.TOKEN;", "password: str = ''", "password: string;",
    "def login(user, password): pass", "max_tokens=4096, n_tokens = 12", "secret: true",
    "http://localhost:3000/x", "http://h:8080/a@b", "https://h:443/x?mail=a@b.c:d",
    "git@github.com:acme/repo.git", "ssh://git@host:22/x", "mail bob@example.com: hi",
    "docker run -p 80:80 -v a:b x", "grep -u x: y", "--token $TOKEN", "TOKEN=$TOKEN x",
    "API_KEY=${API_KEY} x", 'curl -H "Authorization: Bearer $TOKEN" h',
    'curl -H "X-Api-Key: ${KEY}" h', "PASSWORD=$(pass x)",
    "curl -u $USER:$PASS h", "postgres://$USER:$PASS@h/x", "https://${U}:${P}@h",
    "password: ${{ secrets.DB_PASSWORD }}", "token: {{ token }}", "API_KEY=<your key>",
    "--password-stdin < f", "--password-file /run/s/db", "/etc/passwd /token.json",
    "src/auth/token.py:12: def token_of(x):", "-----BEGIN PUBLIC KEY-----\nMIIB\n",
    "-----BEGIN CERTIFICATE-----\nMIIB\n", "task-list-1 risk-assessment-2024-final",
    "sk-fading-circle12 ghp_short hf_x npm_config_x AKIA", "eyJ is how tokens begin",
    "CREATE USER bob IDENTIFIED BY '${PW}', '%s'", "identified by name: it's his",
    "connect(password='', host='db', user='bob')", 'x {"token": "", "user": "bob"}',
    "PASSWORD= HOST=db PORT=5432", "password:\nhost: db1\nuser: bob",
    "--password '' -h db1",
    "getKey = xmlSecKeysMngrGetKey;",
    "line: token[fields_1.LINE],", "sort key: {}\nx", 'LICENSE = "CC0-1.0"',
    "token: XOAuth2Token", "headers={'Authorization': f'Token {token}'}",
    "password = keystone2.loading._plugins.v2:Password", "if ($cookie->getName()) x",
    "0 !== stripos($h, 'Cookie:') && 0 !== stripos($h, 'Host:')", "token: token2 }",
    "set_cookie('unicode_args', 'b')", "check_cookie: method(self, name)",
    "CLIENT_SECRET=yyy CLIENT_ID=xxx", "'password' => 'required|string|min:8'",
    "for (i = basic > 0 ? basic + 1 : 0; i < size /* no final expression */;)",
    "see change Id61cfd1423afa8f9dd964fda278f4fab40887512", "mysql -u root -p app1",
    "'channel_id': 'UCzzvJDZThwv06dR4xmzrZBw'", "this.createMySQL8Database(x)",
    "0x71C7656EC7ab88b098defB751B7401B5f6d8976F", '{"password": "Mot de passe"}',
    "api/webhooks/WEBHOOK_ID/WEBHOOK_TOKEN", "HEADER_KEY1 = str('X-Api-Token-Key1')",
    "auth_cookie: the cookie used to authenticate to X11", "PASSWORD='urn:x:Password'",
    'class Token:\n    """Token profile 1.1', "headers['Cookie'] = '_xsrf=' + value",
    "body['auth']['scope'] = 'none1'", "x?key1=value1&key2=value2",
    '("user_api_key", "user_api_key_auth2")', "auth: str, encoding: str = 'latin1'",
    '<label for="apiKey">API key</label>', "echo $TOKEN | base64", "a password: ' ls",
    "for token in tokens: print(token)", "if token == x: y", "x ? token : other",
    "/usr/lib/debug/.build-id/c1/94589557786ecc1662d32abfbfc77668a9f915.debug",
    "x/numpy/f2py/__pycache__/f2py2e.cpython-311.pyc",
    "cat pw1.txt | docker login --password-stdin h", "echo ready4us | sudo -s",
    'echo "$PASS1" | docker login --password-stdin', "echo $(cat key1.txt) | chpasswd",
    "echo built app12; cat p1.txt | gh secret set X", "x | sudo -S ls file123.txt",
    "cargo login to publish crates2024", "wandb login", "mc alias set m h $A $B",
    "jwt.verify(token, publicKey2, { x: 'RS256' })", "jwt.sign(payload, getKey('a1'))",
    "new PDO($dsn, $user, $pass)", "createHmac('sha256', secret1)", ".login(u, p1)",
    'getConnection("jdbc:postgresql://h:5432/app1")', '.login("Sign in to Acme 2")',
    '"scripts": {"pw": "playwright test", "pass": "tsc"}',
    "PASS: test-suite-x2.sh", "PASS src/foo2.test.js", '{"pass": 1234567, "fail": 2}',
    "# pass 12", "API key (see docs2): none", "if token or name12: x",
    'api.login(u), f("x", "word12x")', 'class Token (Base2): "a"',
    'getenv("API_TOKEN", "DB_PASSWORD")')


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_like_a_secret_stays(text):
    assert redact(text) == text
    assert redact({"tool_input": [text]}) == {"tool_input": [text]}


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*/*.json")), ids=lambda p: p.stem)
def test_a_real_event_stays_and_redact_changes_no_argument(path):
    event = json.loads(path.read_text())
    given = {"event": event, "password": LETTERS, "text": [f"TOKEN={LETTERS}", 1, None]}
    before = copy.deepcopy(given)
    safe = redact(given, 64)
    assert given == before and redact(event) == event
    assert safe["password"] == GONE and safe["text"] == [f"TOKEN={GONE}", 1, None]
    assert safe["text"] is not given["text"] and safe["event"] is not event


LOADS = """
import sys
import hook_io

before = "re" in sys.modules
safe = hook_io.redact(hook_io.read_event(), hook_io.STRING_MAX_CHARS)
hook_io.Emitter().emit_text(hook_io.encode([before, "re" in sys.modules]))
"""


@pytest.mark.parametrize("event", [
    sample("PreToolUse"), {"tool_input": {"command": "ls -la src && git status"}},
    {"text": f"TOKEN={LETTERS} curl -u a:{LETTERS} https://a:{LETTERS}@h"},
    {"text": "sk-" + "aB3dE7" * 8}, {"text": '{"token": {"a": "Zq7"}}'}],
    ids=["tool", "command", "marks", "key", "json"])
def test_regular_expressions_are_loaded_for_no_event(hook, event):
    if not is_cpython(hook.python):
        pytest.skip("its json brings them")
    (hook.folder / "loads.py").write_text(LOADS)
    result = hook.run(
        "loads.py", stdin=event, flags=("-S", "-E"), env={"HOOK_IO_PURE": ""})
    assert result.document == [False, False]


# Cutting

CUT_CHARS = 800
WORDS = "lorem ipsum dolor sit amet " * 400


def cut_parts(text):
    """Return what a cut text says: head, number of characters gone, tail."""
    head, _, rest = text.partition("[… ")
    count, _, tail = rest.partition(" characters cut …]")
    return head, int(count), tail


@pytest.mark.parametrize("cut", [clip, redact], ids=["clip", "redact"])
@pytest.mark.parametrize("length", [801, 1000, 1824, 1825, 9999])
def test_a_cut_text_keeps_head_and_tail_and_counts_the_rest(cut, length):
    text = WORDS[:length]
    head, count, tail = cut_parts(cut({"a": [text]}, CUT_CHARS)["a"][0])
    assert text.startswith(head) and text.endswith(tail)
    assert len(head) + count + len(tail) == length
    assert len(head) > 2 * len(tail) > 300 and len(head) + len(tail) <= CUT_CHARS
    assert cut(WORDS[:CUT_CHARS], CUT_CHARS) == WORDS[:CUT_CHARS]


def test_a_cut_text_is_not_cut_again():
    for cut in (clip(WORDS, 800), redact(WORDS, 800), clip({WORDS: [WORDS]}, 800)):
        assert clip(cut, 800) == redact(cut, 800) == cut


def assert_cut_leaks_nothing(secret, offsets, before=""):
    """Redact *secret* at each of the *offsets*; only its letters are upper case."""
    for offset in offsets:
        filler = before + WORDS[:offset - len(before) - 1] + " "
        shown = redact(f"{filler}{secret} {WORDS[:5000 - offset]}", CUT_CHARS)
        assert "Q7" not in shown, (offset, shown)


KEYS = {"key": "sk-" + "Q7" * 25, "assignment": "TOKEN=" + "Q7" * 25,
        "header": "Authorization: Bearer " + "Q7" * 25,
        "url": "://u:" + "Q7" * 25 + "@h"}
LONG = {"private key": key_block("RSA PRIVATE KEY"), "token": "TOKEN=" + "Q7" * 800,
        "quoted token": 'TOKEN="' + "Q7" * 800 + '"',
        "json": r'{\"n\": 1, \"token\": \"' + "Q7" * 800 + r'\"}',
        "cookie": "Cookie: a=" + "Q7" * 800, "flag": "--password '" + "Q7" * 800 + "'",
        "web token": "eyJ" + "Q7" * 20 + "." + "Q7" * 700 + "." + "Q7" * 20}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_across_a_cut_does_not_leak_in_part(kind):
    assert_cut_leaks_nothing(KEYS[kind], range(100, 5000))


@pytest.mark.parametrize("kind", LONG)
def test_a_long_secret_across_a_cut_does_not_leak_in_part(kind):
    assert_cut_leaks_nothing(LONG[kind], range(1, 5000, 7))


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_behind_much_that_was_redacted_does_not_leak_in_part(kind):
    block = key_block("PRIVATE KEY", "AAAA" * 10) + "\n"  # gets shorter by 1,000
    assert_cut_leaks_nothing(KEYS[kind], range(1500, 2500), before=block)
    for offset in range(1000, 2500):
        text = WORDS[:5000] + KEYS[kind] + " " + WORDS[:offset] + "\n" + block
        assert "Q7" not in redact(text, CUT_CHARS), offset


# Time

MARKERS = sorted({*hook_io.SECRET_ENDINGS, *hook_io.RANDOM_ENDINGS, *hook_io.PLACES})
PIECES = (
    "a", " ", "_", "-", ".", "=", ":", "\\", '"', "'", "{", "[", "\n", "@", "a.", "a-",
    "A_",
    "password=", "password=a ", 'password="', "password='a", "token: ", "token =",
    "--a",
    "token=(", "token=a(", 'secret\\"', "api_key1=", "--password ", "--token=",
    " -u a:",
    "://a:", "://:", "://a@", "authorization: ", "cookie:$", "bearer a1", "eyJaaaaaaaa",
    "eyJaaaaaaaa.", "eyJaaaaaaaa.bbbbbb", "AKEY=", "A_KEY=a", "-----BEGIN ", "-----",
    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "?key=", "&sig=a",
    "sshpass -p ", "hooks.slack.com/abcd/", "api/webhooks/12345/", "1234567890:AA",
    "12345678:", "key-0", "key-" + HEX, '{"password":', '["password",', '{"token":"',
    "Q7" * 8 + ".", "a" * 64 + "password", "password" + "a" * 600)
STARTS = (
    "token=", "token= ", "--password '", "-----BEGIN PRIVATE KEY-----\n", "://a:",
    "eyJ", '["', "bearer ", "x -u ", "?sig=")
TEXTS = [("", piece) for piece in (*PIECES, *MARKERS)]
TEXTS += [("", start) for starts in FORMS.values() for start in [*starts][::8]]
TEXTS += [(start, piece) for start in STARTS for piece in ("a", "a=", "a.", "a-", "(")]
#: what does not repeat, so that nothing of it is known from before
CHANGING = ("?key=%d", "--token=%d", "token: %d ", "&sig=a%x", '"password": "p%d", ',
            "sshpass -p %d ", "api_key%d=", "hooks.slack.com/ab%d/", "://a%d@",
            "x-%d=/", "ab_%x/")
TEXTS += [("", piece) for piece in CHANGING]
PROSE = ("", "lorem ipsum dolor sit amet, consectetur 12 elit-sed.\n")
SMALL = 1 << 16  # four times the block of a key, which is read at once
#: eight times the text takes at most so many times the time: half way, on the scale
#: of exponents, from linear (8) to quadratic (64), as a busy machine's caches add to
#: either.  The worst text takes so many times what prose takes, and so many times the
#: worst one that does not repeat.
EIGHTFOLD_MAX, WORST_MAX, CHANGING_MAX = 8 ** 1.5, 40, 120


def text_of(start, piece, size):
    if piece in CHANGING:
        return "".join(map(piece.__mod__, range(size // len(piece))))[:size]
    return (start + piece * (size // len(piece)))[:size]


def cpu_seconds(text, work=redact):
    begin = time.process_time()
    work(text)
    return time.process_time() - begin


def times_as_long(text, small, other, large, at_most):
    """Return how many times *other* takes what *text* takes, by the best of each.

    What others do on the machine makes either one longer, so both are taken in turns,
    and again only while it looks like more than *at_most*.
    """
    texts = text_of(*text, small), text_of(*other, large)
    times = [], []
    for _ in range(15):
        for given, seconds in zip(texts, times):
            seconds.append(cpu_seconds(given))
        if min(times[1]) <= at_most * min(times[0]):
            break
    return min(times[1]) / min(times[0])


@pytest.mark.long
def test_no_text_takes_more_than_linear_time():
    for text in TEXTS:
        ratio = times_as_long(text, SMALL, text, 8 * SMALL, EIGHTFOLD_MAX)
        assert ratio <= EIGHTFOLD_MAX, (text, ratio)


def test_no_text_takes_many_times_what_prose_takes():
    for text in TEXTS:
        most = CHANGING_MAX if text[1] in CHANGING else WORST_MAX
        ratio = times_as_long(PROSE, SMALL, text, SMALL, most)
        assert ratio <= most, (text, ratio)


class Late(hook_io.Effort):
    """An Effort that is spent when it has been looked at so many times."""

    def __init__(self, looks):
        super().__init__(60)
        self.looks = iter(range(looks))

    def is_spent(self, chars=0):
        return next(self.looks, None) is None


def test_what_is_not_reached_in_time_does_not_leave():
    event = {"a": "plain text", "b": {"c": f"API_KEY={LETTERS}"}, "d": [1]}
    assert redact(event, None, hook_io.Effort(-1)) == {SKIPPED: 3}
    assert redact(["plain text"], None, hook_io.Effort(-1)) == [SKIPPED]
    assert redact("plain text", None, hook_io.Effort(-1)) == SKIPPED
    assert redact(event, None, hook_io.Effort(60)) == {**event, "b": {
        "c": f"API_KEY={GONE}"}}


def test_an_effort_ends_by_the_wall_clock_as_well(monkeypatch):
    effort, now = hook_io.Effort(60), time.monotonic()
    assert not effort.is_spent(1 << 20)
    monkeypatch.setattr(hook_io.time, "monotonic", lambda: now + 60)
    assert not effort.is_spent(1 << 20)
    monkeypatch.setattr(hook_io.time, "monotonic", lambda: now + 63)
    assert effort.is_spent(1 << 20)


def test_short_scalars_are_reached_first_and_all_stay_in_their_places():
    event = {"list": [["plain text"] * 9], "long": "a b " * 500, "name": "plain text",
             "number": 7}
    assert redact(event, None, Late(3)) == {
        "name": "plain text", "number": 7, SKIPPED: 2}
    assert list(redact(event, None, hook_io.Effort(60))) == list(event)


def test_at_no_point_of_its_time_a_secret_leaves():
    inner = json.dumps({"password": LETTERS, "log": f"token={LETTERS}9 AKIA{HEX[:16]}"})
    event = {"env": [f"API_KEY={LETTERS}1", "--token", LETTERS], "out": inner,
             "deep": [json.dumps([inner])], "text": f"Authorization: Basic {LETTERS}7",
             "cut": f"PASSWORD={LETTERS}8 " + "word " * 9000 + f"SECRET={LETTERS}5"}
    for looks in range(200):
        safe = json.dumps(redact(event, 2000, Late(looks)))
        assert LETTERS not in safe and HEX not in safe, (looks, safe)
    assert SKIPPED not in safe


def test_many_names_in_an_event_take_no_more_for_each():
    def cpu_s(count):
        event = {"names": [f"pwd{number}" for number in range(count)]}
        took = []
        for _ in range(5):
            started = time.process_time()
            redact(event)
            took.append(time.process_time() - started)
        return min(took)

    assert cpu_s(1000) < 8 * cpu_s(250)


@pytest.mark.parametrize("text", [
    "T _ZGTtNKSt13bad_exceptionD1Ev@@CXXABI_1.3.10",
    "T _ZNSt6vectorIiSaIiEE9push_backERKi",
    "  -W, --password           force a prompt (should happen automatically)",
    "     --basic              Use HTTP Basic Authentication",
    "Filename: pool/main/o/openssl/openssl_3.0.17-1~deb12u2_amd64.deb",
    "ii  gcc-mingw-w64-x86-64-win32-runtime  12.2.0-14",
    "ossl_ec_GF2m_simple_oct2point", "Cookie: lang=en; theme=dark",
    "Set-Cookie: theme=dark; Path=/", 'SEND_MESSAGE_TOKEN = "send_message"',
    '"access_token": "12/34",', 'privateKey: "-----BEGIN PRIVATE KEY-----\\n...",',
    "headers['Authorization'] = ', '.join(header)", "PublicKeyToken=b77a5c561934e089"])
def test_what_programs_print_about_themselves_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize("text, secret", [
    ("secret_key = {}", "/tx0IzkXbdxhR32pekcw5opstZ8gurboNfwBRP07"),
    ("aws configure set secret_key {}", "/Xekl3ma0tF73CQJrgijnsqHSx+8MLpz33SnsjRZ"),
    ("PRIVATE_KEY={}", "0x" + HEX * 2), ('psk="{}"', "blue-Horse-42"),
    ("| DB_PASSWORD | {} | of the database |", "mdT4ble9")])
def test_a_secret_that_begins_like_a_path_or_a_number_is_redacted(text, secret):
    assert redact(text.format(secret)) == text.format(GONE)


def test_json_in_a_string_stays_json_where_a_key_begins_a_line():
    held = json.dumps({"command": "print-access-token\nya29.a0A" + VALUES["mixed"]})
    assert json.loads(redact({"text": held})["text"])["command"].startswith(
        "print-access-token\n")
