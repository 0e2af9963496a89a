"""The API against its own schema, by Schemathesis: no request makes the server fail."""

import pytest
from hypothesis import HealthCheck, given, settings

from served_models import serving

schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def operations(served_mnist):
    with serving([served_mnist]) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        yield [result.ok() for result in schema.get_all_operations()]


def test_no_request_makes_the_server_fail(operations):
    names = {operation.label for operation in operations}
    assert {"POST /v1/images/generations", "POST /v1/images/edits", "POST /v1/videos"} <= names
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        def answered(case):
            response = case.call(timeout=60)
            assert response.status_code < 500 or "retry-after" in response.headers

        answered()
