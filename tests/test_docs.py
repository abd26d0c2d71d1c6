"""The page /docs in a real browser, which may load nothing from elsewhere: a user is created there and read back."""

import json
from pathlib import Path

from commands import run
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from services import program, service
from tokens import Provider

ADA = {"email": "ada@example.com", "name": "Ada"}


class Page:
    """The page, by what a person does on it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.address = address
        browser.get(f"{address}/docs")

    def find(self, selector: str, within: WebElement | None = None) -> WebElement:
        """Wait for an element and bring it into view."""
        element: WebElement = (within or self.browser).find_element(By.CSS_SELECTOR, selector)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def authorize(self, token: str) -> None:
        """Enter an access token."""
        self.find(".btn.authorize").click()
        self.find(".modal-ux input").send_keys(token)
        self.find(".modal-ux button[type=submit]").click()
        self.find(".modal-ux .btn-done").click()

    def send(self, operation: str, value: str) -> tuple[str, str]:
        """Fill in a route's one parameter or its body, send it, and return status and body of the answer."""
        block = self.find(f"[id='operations-users-{operation}']")
        self.find(".opblock-summary-control", block).click()
        self.find(".try-out__btn", block).click()
        field = self.find("textarea, .parameters input", block)
        # As a person: select all, and write over it.
        self.browser.execute_script("arguments[0].select()", field)
        field.send_keys(value)
        self.find(".execute", block).click()
        answer = self.find(".live-responses-table .response", block)
        status = self.find(".response-col_status", answer).text.split()[0]
        return status, self.find(".highlight-code code, .microlight", answer).text

    def complaints(self) -> list[str]:
        """Return what the browser has to say: a load that the policy forbids, an error of a script."""
        return [entry["message"] for entry in self.browser.get_log("browser") if "favicon" not in entry["message"]]

    def hosts(self) -> set[str]:
        """Return whom the browser has asked for anything."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {url.split("/")[2] for url in urls if url.startswith("http")}


def create_and_read(page: Page) -> None:
    """Create a user on the page, and read it back."""
    status, created = page.send("create_user", json.dumps(ADA))
    assert status == "201", created
    user = json.loads(created)
    status, read = page.send("get_user", user["id"])
    assert (status, json.loads(read)) == ("200", user)
    assert page.complaints() == []
    assert page.hosts() == {page.address.removeprefix("http://")}


def test_a_user_is_created_on_the_page(project: Path, migrated: str, browser: webdriver.Chrome) -> None:
    with service(project, migrated) as (address, _):
        page = Page(browser, address)
        create_and_read(page)
        assert browser.find_elements(By.CSS_SELECTOR, "title")[0].get_attribute("text") == "fastapi-service"


def test_with_authentication_a_token_is_entered_first(
    guarded: Path, project: Path, database: str, browser: webdriver.Chrome
) -> None:
    run(program(guarded, "alembic"), "upgrade", "head", cwd=guarded, DATABASE_URL=database)
    with Provider() as provider, service(guarded, database, **provider.environment()) as (address, _):
        page = Page(browser, address)
        page.authorize(provider.token(scope="users:read users:write"))
        create_and_read(page)


def test_without_the_token_the_page_shows_the_refusal(guarded: Path, database: str, browser: webdriver.Chrome) -> None:
    run(program(guarded, "alembic"), "upgrade", "head", cwd=guarded, DATABASE_URL=database)
    with Provider() as provider, service(guarded, database, **provider.environment()) as (address, _):
        status, refusal = Page(browser, address).send("create_user", json.dumps(ADA))
        assert (status, json.loads(refusal)["title"]) == ("401", "Unauthorized")
