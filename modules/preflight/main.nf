include { options ; threads } from '../shell'

// Seconds per sample: are the files whole, of the right kind, and of one assembly? Problems are collected, not raised.
process PREFLIGHT {
    tag "${meta.sample}"
    label 'process_single'
    label 'image_cpu'

    input:
    tuple val(meta), val(naming), path(rna, stageAs: 'rna/*'), path(fragments, stageAs: 'fragments/*'), path(atac, stageAs: 'atac/*'), path(protein, stageAs: 'protein/*'), path(h5mu, stageAs: 'h5mu/*'), path(peaks, stageAs: 'peaks/*'), path(barcodes, stageAs: 'barcodes/*'), path(barcode_map, stageAs: 'barcode_map/*'), path(cells, stageAs: 'cells/*'), path(hto, stageAs: 'hto/*') // naming: [ batch_column, sample_column, hto_features ], where given; all files may be []
    val settings     // [ genome, chrom_style, ... ]
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'
    path tss, stageAs: 'genome/tss/*'
    path gtf, stageAs: 'genome/gtf/*'
    path blacklist, stageAs: 'genome/blacklist/*'
    path all_peaks, stageAs: 'all_peaks/*' // the run's peaks (BED), or []

    output:
    tuple val(meta), path("*.preflight.json"), emit: checked // { problems, warnings, facts }
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-preflight --resources ${meta.sample}.preflight.resources.json --sample=${meta.sample} \\
        ${options(rna: rna, fragments: fragments, atac: atac, protein: protein, h5mu: h5mu)} \\
        ${options(peaks: peaks, barcodes: barcodes, barcode_map: barcode_map, cells: cells, hto: hto)} ${options(naming)} \\
        ${options(chrom_sizes: chrom_sizes, tss: tss, gtf: gtf, blacklist: blacklist, all_peaks: all_peaks)} \\
        ${options(settings)} --output=${meta.sample}.preflight.json
    """

    stub:
    """
    echo '{}' > ${meta.sample}.preflight.json
    echo '{}' > ${meta.sample}.preflight.resources.json
    """
}
