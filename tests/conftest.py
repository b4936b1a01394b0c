import random, pytest
@pytest.fixture
def seed():
    s=random.randrange(2**31); print("seed",s); return s
