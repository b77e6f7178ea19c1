#!/usr/bin/env php
<?php

// Sends an image to `maskline serve`; writes the masks of its instances and the rendered image.
// PHP 8.1 or newer with the curl extension.

declare(strict_types=1);

const ATTEMPTS = 5; // to reach a busy server
const MAX_WAIT = 60; // seconds between two of them

const USAGE = <<<'TEXT'
    usage: client.php [OPTIONS] IMAGE OUTPUT_FOLDER
      --url URL      of the server (default http://127.0.0.1:8080)
      --threshold T  lowest score, 0 to 1
      --no-image     do not render the image
      --timeout S    seconds (default 60)
    MASKLINE_API_KEY in the environment is sent as the API key.

    TEXT;

final class Usage extends RuntimeException
{
}

function commandLine(array $arguments): array
{
    $options = ['url' => 'http://127.0.0.1:8080', 'threshold' => null, 'visualize' => true, 'timeout' => 60.0];
    $files = [];
    $ranges = ['--threshold' => [0, 1], '--timeout' => [0.001, 86400]];
    while ($arguments) {
        $name = array_shift($arguments);
        if ($name === '--no-image') {
            $options['visualize'] = false;
        } elseif ($name === '--url' || isset($ranges[$name])) {
            $value = array_shift($arguments) ?? throw new Usage("$name needs a value");
            $options[substr($name, 2)] = $name === '--url' ? $value : number($value, ...$ranges[$name]);
        } elseif (str_starts_with($name, '--')) {
            throw new Usage("there is no option $name");
        } else {
            $files[] = $name;
        }
    }
    if (count($files) !== 2) {
        throw new Usage('IMAGE and OUTPUT_FOLDER are needed');
    }
    return $options + ['image' => $files[0], 'folder' => $files[1]];
}

function number(string $text, float $low, float $high): float
{
    $value = is_numeric($text) ? (float) $text : NAN;
    return $low <= $value && $value <= $high ? $value : throw new Usage("'$text' is not a number from $low to $high");
}

function run(array $options): void
{
    $content = is_file($options['image']) ? @file_get_contents($options['image']) : false;
    if ($content === false) {
        throw new RuntimeException("{$options['image']} can't be read");
    }
    $request = ['image' => base64_encode($content), 'visualize' => $options['visualize']];
    if ($options['threshold'] !== null) {
        $request['threshold'] = $options['threshold'];
    }
    $url = rtrim($options['url'], '/') . '/instance-segmentation';
    $answer = ask($url, json_encode($request, JSON_THROW_ON_ERROR), $options['timeout']);
    try {
        $pgm = labelImage($answer['result']['instances'], ...$answer['result']['size']);
        $rendered = base64_decode($answer['result']['image'] ?? '', true);
    } catch (Throwable $fault) {
        throw new RuntimeException('unexpected answer: ' . $fault->getMessage());
    }
    $folder = $options['folder'];
    if (!is_dir($folder) && !@mkdir($folder, recursive: true)) {
        throw new RuntimeException("$folder can't be made");
    }
    file_put_contents("$folder/masks.pgm", $pgm);
    if ($rendered) {
        file_put_contents("$folder/rendered.jpg", $rendered);
    }
}

/** The server's answer. If it is busy (429, 503), the request is repeated after Retry-After. */
function ask(string $url, string $body, float $timeout): array
{
    for ($attempt = 1; ; $attempt++) {
        [$status, $text, $retryAfter] = post($url, $body, $timeout);
        if (!in_array($status, [429, 503], true) || $attempt === ATTEMPTS) {
            return checked($url, $status, $text);
        }
        $wait = ctype_digit($retryAfter) ? min((int) $retryAfter, MAX_WAIT) : 1; // it may be missing, or a date
        fwrite(STDERR, "busy ($status): again in $wait s\n");
        sleep($wait);
    }
}

/** Status, body, and Retry-After ('' if missing). */
function post(string $url, string $body, float $timeout): array
{
    $headers = ['Content-Type: application/json', 'Expect:']; // no pause before a large body
    if ($key = getenv('MASKLINE_API_KEY')) {
        $headers[] = "Authorization: Bearer $key";
    }
    $retryAfter = '';
    $curl = curl_init($url);
    curl_setopt_array($curl, [
        CURLOPT_POST => true,
        CURLOPT_POSTFIELDS => $body,
        CURLOPT_HTTPHEADER => $headers,
        CURLOPT_TIMEOUT_MS => (int) ($timeout * 1000),
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HEADERFUNCTION => function ($curl, string $line) use (&$retryAfter): int {
            [$name, $value] = explode(':', $line, 2) + [1 => ''];
            if (strcasecmp($name, 'Retry-After') === 0) {
                $retryAfter = trim($value);
            }
            return strlen($line);
        },
    ]);
    $text = curl_exec($curl);
    if ($text === false) {
        throw new RuntimeException("no answer from $url: " . curl_error($curl));
    }
    return [curl_getinfo($curl, CURLINFO_RESPONSE_CODE), $text, $retryAfter];
}

/** The answer, if successful. */
function checked(string $url, int $status, string $text): array
{
    $answer = json_decode($text, true);
    if (!is_array($answer) || array_is_list($answer)) {
        throw new RuntimeException("$url answered $status without a JSON object");
    }
    if ($status !== 200 || ($answer['errorCode'] ?? null) !== 0) {
        $reported = $answer['errorMsg'] ?? '';
        $logId = $answer['logId'] ?? '';
        throw new RuntimeException("$status: $reported (logId $logId)");
    }
    return $answer;
}

/** Print the instances, best first, and number their pixels 1, 2, ... in a PGM image of 16 bits, high byte first. */
function labelImage(array $instances, int $height, int $width): string
{
    $head = "P5\n$width $height\n65535\n";
    $pgm = $head . str_repeat("\0", $height * $width * 2);
    foreach ($instances as $i => $instance) {
        ['bbox' => $box, 'mask' => ['rleResult' => $counts, 'size' => [$rows, $cols]]] = $instance;
        // As the server rounds; by default round() takes 2.5 to 3.
        $top = (int) round($box[1], 0, PHP_ROUND_HALF_EVEN);
        $left = (int) round($box[0], 0, PHP_ROUND_HALF_EVEN);
        if (min($top, $left, $rows, $cols) < 0 || $top + $rows > $height || $left + $cols > $width) {
            throw new RuntimeException('a mask exceeds the image');
        }
        $mask = decodeRle($counts, $rows, $cols);
        $label = pack('n', $i + 1);
        for ($at = strpos($mask, "\1"); $at !== false; $at = strpos($mask, "\1", $at + 1)) {
            $place = strlen($head) + 2 * (($top + intdiv($at, $cols)) * $width + $left + $at % $cols);
            if ($pgm[$place] === "\0" && $pgm[$place + 1] === "\0") {
                [$pgm[$place], $pgm[$place + 1]] = [$label[0], $label[1]];
            }
        }
        $pixels = substr_count($mask, "\1");
        $numbers = [$instance['score'], ...$box, $pixels];
        vprintf("%.4f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%s\n", [...$numbers, $instance['categoryName']]);
    }
    return $pgm;
}

/**
 * The mask decoded from COCO's compressed RLE: a byte a pixel, row by row.
 *
 * Runs of background and foreground in turn, background first, go down the columns. From the fourth on, the difference
 * to the run two places earlier is written. A number comes in groups of five bits, lowest first, the last one's highest
 * bit its sign; 32 is added where more groups follow, and 48 to make it a character.
 */
function decodeRle(string $counts, int $rows, int $cols): string
{
    $total = $rows * $cols;
    $mask = str_repeat("\0", $total);
    $runs = [];
    $at = $value = $shift = 0;
    foreach ($counts === '' ? [] : str_split($counts) as $character) {
        $group = ord($character) - 48;
        $value += ($group & 31) << $shift;
        $shift += 5;
        if ($group & 32 && $shift < 60) {
            continue;
        }
        $value -= ($group & 16) << ($shift - 4);
        $value += count($runs) > 2 ? $runs[count($runs) - 2] : 0;
        if ($value < 0 || $value > $total - $at) {
            break;
        }
        for ($end = $at + $value; $at < $end; $at++) {
            if (count($runs) % 2) {
                $mask[$at % $rows * $cols + intdiv($at, $rows)] = "\1";
            }
        }
        $runs[] = $value;
        $value = $shift = 0;
    }
    if ($at !== $total || $shift) {
        throw new RuntimeException("RLE does not match $rows x $cols pixels");
    }
    return $mask;
}

set_error_handler(
    fn (int $level, string $message) => error_reporting() & $level ? throw new RuntimeException($message) : true
);
try {
    run(commandLine(array_slice($argv, 1)));
} catch (Usage $fault) {
    fwrite(STDERR, "error: {$fault->getMessage()}\n" . USAGE);
    exit(2);
} catch (Throwable $fault) {
    fwrite(STDERR, 'error: ' . preg_replace('/\s+/', ' ', $fault->getMessage()) . "\n");
    exit(1);
}
