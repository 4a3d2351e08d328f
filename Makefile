.PHONY: demo test test-oldest lint check

demo:
	python3 tools/dev.py demo

test:
	python3 tools/dev.py test

test-oldest:
	python3 tools/dev.py test --paddle 2.6.2

lint:
	python3 tools/dev.py lint

check: lint test test-oldest
