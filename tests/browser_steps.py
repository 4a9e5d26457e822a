"""What tests do on a page in a browser; needs selenium."""

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def labelled(browser, text):
    return browser.find_element(By.CSS_SELECTOR, f'[aria-label="{text}"]')


def circles(browser, plane="xy", kind="pick"):
    return browser.find_elements(By.CSS_SELECTOR, f"#{plane} circle.{kind}")


def settle(browser):
    """Wait until what was asked for is painted."""
    browser.execute_async_script("const d = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(d));")


def wait_until_loaded(browser):
    """Wait until all slices of a run's page are unpacked."""
    WebDriverWait(browser, 60).until(lambda one: one.execute_script("return document.body.dataset.loaded"))
